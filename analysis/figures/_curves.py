"""What the figures against training step share: the runs at each init's best learning rate."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption
from analysis.grid import Grid


def ends(grid: Grid) -> list[int]:
    """The smallest and the largest width (one, if there is only one)."""
    return sorted({int(grid.widths[0]), int(grid.widths[-1])})


def subplots(grid: Grid, rows: int, height: float) -> tuple[Figure, np.ndarray]:
    """Rows of a panel for each end, with room for a legend of the inits below the last."""
    room = style.legend_room(len(grid.inits), free=0)
    return style.subplots(rows, len(ends(grid)), height, width=0.9, extra=room, sharex=True, sharey="row")


def at_best(frame: pd.DataFrame, grid: Grid, init: str, width: int) -> pd.DataFrame:
    """Steps of all seeds at the grid's best learning rate of this init and width."""
    lr = grid.best(init, width).grid_lr
    return frame[(frame["init.name"] == init) & (frame["task.width"] == width) & (frame["optimizer.lr"] == lr)]


def draw(axes: Axes, runs: pd.DataFrame, column: str, color: str, line, label: str) -> None:
    """Geometric mean over seeds with the range of the seeds as a band; steps at which it is zero or unmeasured drop out."""
    values = runs[runs[column] > 0].groupby("step")[column]
    # A step enters only where every seed has a value, so that the mean is over the same seeds throughout.
    counts = values.count()
    steps = counts.index[counts == counts.max()]
    middle = np.exp(values.apply(lambda x: np.log(x).mean())).loc[steps]
    axes.fill_between(steps, values.min().loc[steps], values.max().loc[steps], color=color, alpha=0.2, linewidth=0)
    axes.plot(steps, middle, color=color, linestyle=line, label=label)


def same_limits(axes: Iterable[Axes]) -> None:
    """Of all panels that show a curve on a logarithmic axis. (To share axes costs matplotlib the square of their number.)"""
    drawn = [panel for panel in axes if panel.get_yscale() == "log"]
    limits = [panel.get_ylim() for panel in drawn]
    for panel in drawn:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def panels(frame: pd.DataFrame, columns: list[str], axes: np.ndarray, grid: Grid) -> Iterator[tuple[Axes, str, int]]:
    """Draw every column (a row of panels) at the smallest and largest width (a column of panels) for every init."""
    for row, column in zip(axes, columns, strict=True):
        for panel, width in zip(row, ends(grid), strict=True):
            for init in grid.inits:
                look = style.look(init)
                best = grid.best(init, width)
                rate = f"lr {best.grid_lr:.2g}" + " (grid's edge)" * best.edge
                label = f"{look.label}, {'no rate finished' if np.isnan(best.grid_lr) else rate}"
                draw(panel, at_best(frame, grid, init, width), column, look.color, look.line, label)
            style.log_y(panel)
            yield panel, column, width
        row[0].set_ylabel(style.COLUMNS.get(column, column))


def at_end(
    frame: pd.DataFrame, grid: Grid, columns: Mapping[str, str], step: int | None = None, last: str = "the last step"
) -> str:
    """A sentence on the sizes of quantities (name -> column) at a step, or at the end, at the largest width."""
    width = int(grid.widths[-1])
    parts = []
    for init in grid.inits:
        runs = at_best(frame, grid, init, width)
        sizes = [
            _caption.number(middle) for name in columns.values() if np.isfinite(middle := _middle(runs, name, step))
        ]
        if len(sizes) == len(columns):
            parts.append(f"{_caption.listed(sizes)} under {style.look(init).label}")
    when = last if step is None else f"step {step}"
    if not parts:
        return f"At n = {width} no run has a learning rate at which {_caption.listed(columns)} could be measured."
    return f"At n = {width} and {when}, {_caption.listed(columns)} {_is(columns)} {'; '.join(parts)}, each at its best rate."


def _is(columns: Mapping[str, str]) -> str:
    return "are" if len(columns) > 1 else "is"


def _middle(runs: pd.DataFrame, column: str, step: int | None) -> float:
    """Geometric mean over seeds at the last step at which it was measured, up to `step`."""
    known = runs[["step", column]].dropna()
    known = known[known["step"] <= (np.inf if step is None else step)]
    last = known.loc[known["step"] == known["step"].max(), column]
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(last).mean())) if len(last) else np.nan


def explained(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on what is drawn."""
    shown = _caption.listed([f"n = {width}" for width in ends(grid)])
    return [
        f"Shown are {shown}, each init at its best learning rate of the grid.",
        _caption.runs(frame),
        _caption.bands(frame),
    ]


def zeros(frame: pd.DataFrame) -> str:
    """A sentence on which factor has no gradient at the first step."""
    start, parts = frame[frame["step"] == 0], []
    for init, runs in start.groupby("init.name"):
        none = [side for side in "AB" if (runs[f"grad/{side}"] == 0).all()]
        if none:
            which = "both gradients" if len(none) == 2 else f"the gradient of {none[0]}"
            parts.append(f"{which} under {style.look(init).label}")
    if not parts:
        return "At step 0 neither gradient is exactly zero in all runs of an init."
    return f"At step 0, in all runs, {_caption.listed(parts)} {'are' if len(parts) > 1 else 'is'} exactly zero."

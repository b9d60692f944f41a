"""What the figures against training step share: the runs at each init's best learning rate."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.grid import Grid


def ends(grid: Grid) -> list[int]:
    """The smallest and the largest width (one, if there is only one)."""
    return sorted({int(grid.widths[0]), int(grid.widths[-1])})


def at_best(frame: pd.DataFrame, grid: Grid, init: str, width: int) -> pd.DataFrame:
    """Steps of all seeds at the grid's best learning rate of this init and width."""
    lr = grid.best(init, width).grid_lr
    return frame[(frame["init.name"] == init) & (frame["task.width"] == width) & (frame["optimizer.lr"] == lr)]


def draw(axes: Axes, runs: pd.DataFrame, column: str, color: str, line, label: str) -> None:
    """Geometric mean over seeds with the range of the seeds as a band; steps at which it is zero or unmeasured drop out."""
    values = runs[["step", column]].dropna()
    values = values[values[column] > 0].groupby("step")[column]
    # A step enters only where every seed has a value, so that the mean is over the same seeds throughout.
    counts = values.count()
    steps = counts.index[counts == counts.max()]
    middle = np.exp(values.apply(lambda x: np.log(x).mean())).loc[steps]
    axes.fill_between(steps, values.min().loc[steps], values.max().loc[steps], color=color, alpha=0.2, linewidth=0)
    axes.plot(steps, middle, color=color, linestyle=line, label=label)


def panels(frame: pd.DataFrame, columns: list[str], axes: np.ndarray, grid: Grid) -> Iterator[tuple[Axes, str, int]]:
    """Draw every column (a row of panels) at the smallest and largest width (a column of panels) for every init."""
    for row, column in zip(axes, columns, strict=True):
        for panel, width in zip(row, ends(grid), strict=True):
            for init in grid.inits:
                look = style.look(init)
                best = grid.best(init, width)
                label = f"{look.label}, lr {best.grid_lr:.2g}" + " (grid's edge)" * best.edge
                draw(panel, at_best(frame, grid, init, width), column, look.color, look.line, label)
            style.log_y(panel)
            yield panel, column, width
        row[0].set_ylabel(style.COLUMNS[column])

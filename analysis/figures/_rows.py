"""What the figures with one row an arm (an init, or an adapter under an init) share: a dot with its interval in each row."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.arms import parted
from analysis.grid import BY_HELD_OUT, Grid
from analysis.scaling import Estimate


def arm_label(arm: str) -> str:
    """Of an init and what is changed of it."""
    init, change = parted(arm)
    return style.look(init).label + (f", {change}" if change else "")


def row_height(count: int) -> float:
    """Inches of a panel of `count` rows, with its labels."""
    return 0.65 + 0.145 * max(count, 5)


def by_task(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The parts of a sweep over tasks, toys first."""
    tasks = sorted(frame["task.name"].unique(), key=lambda task: (task in BY_HELD_OUT, task))
    return [(task, frame[frame["task.name"] == task]) for task in tasks]


def lowest_first(grid: Grid) -> list[str]:
    """The inits by their best loss at the smallest width; those without one come last."""
    losses = {init: grid.best(init, grid.widths[0]).log_loss for init in grid.inits}
    return sorted(losses, key=lambda init: (np.isnan(losses[init]), losses[init]))


def best_loss(grid: Grid, init: str) -> np.ndarray:
    """Log of the best loss, at the smallest width."""
    return np.array([grid.best(init, grid.widths[0]).log_loss])


def best_rate(grid: Grid, init: str) -> np.ndarray:
    """Log of the best learning rate, at the smallest width."""
    return np.array([np.log(grid.best(init, grid.widths[0]).lr)])


def dots(
    panel: Axes,
    estimates: Sequence[Estimate],
    colors: Sequence[str],
    hollow: Sequence[bool],
    offset: float = 0.0,
    markers: Sequence[str] | None = None,
    logs: bool = True,
) -> None:
    """Each estimate and its interval, exp of them where they are `logs`, row by row from the top; hollow where the flag says so,
    nothing where it is nan."""
    markers = markers or ["o"] * len(estimates)
    for row, (estimate, color, empty, marker) in enumerate(zip(estimates, colors, hollow, markers, strict=True)):
        value, low, high = vars(estimate.exp() if logs else estimate).values()
        if np.isfinite(value):
            bars = None if np.isnan(low) else [[max(value - low, 0)], [max(high - value, 0)]]
            look = {"color": color, "marker": marker, "markersize": 4, "linestyle": "none"}
            fill = "none" if empty else "full"
            panel.errorbar(value, row + offset, xerr=bars, fillstyle=fill, elinewidth=0.9, capsize=1.5, **look)


def rows(panel: Axes, labels: Sequence[str] | None) -> None:
    """Names of the rows, from the top, with faint lines to follow them; None where another panel shows them."""
    count = len(labels) if labels else None
    if labels:
        panel.set_yticks(range(count), labels)
        panel.set_ylim(count - 0.5, -0.5)
    panel.grid(axis="y", color="0.9", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.tick_params(axis="y", length=0)


def log_x(panel: Axes, label: str) -> None:
    """Logarithmic axis of values; a panel without a positive one says so instead."""
    panel.set_xlabel(label)
    if np.isfinite(panel.dataLim.minposx):
        panel.set_xscale("log")
        if panel.dataLim.x0 == panel.dataLim.x1:
            panel.set_xlim(panel.dataLim.x0 / 2, panel.dataLim.x1 * 2)
        style.few_ticks(panel.xaxis)
    else:
        panel.set_xticks([])
        panel.text(0.5, 0.5, "no data", transform=panel.transAxes, ha="center", color="0.4")

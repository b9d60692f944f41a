"""Gradient norms of A and B against step at the best learning rate of each init, smallest and largest width."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption, _curves
from analysis.figures._needs import CURVE
from analysis.grid import Grid

RECORDS = ("lr_vs_width",)
COLUMNS = ["grad/A", "grad/B"]
NEEDS = (CURVE,)
MEASURED = COLUMNS


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, axes = _curves.subplots(grid, len(COLUMNS), height=2.0)
    for panel, column, width in _curves.panels(frame, COLUMNS, axes, grid):
        panel.set_xscale("symlog", linthresh=1)  # step 0 counts: there one of the two gradients is exactly zero
        panel.set_xlim(0)
        _mark_zeros(panel, frame[frame["task.width"] == width], column)
        if column == COLUMNS[0]:
            panel.set_title(f"$n = {width}$")
        else:
            panel.set_xlabel("step")
            style.legend_below(panel)
    style.heading(fig, _caption.short(frame, _caption.short_bands(frame)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid = Grid.of(frame)
    ends = _curves.at_end(frame, grid, {"the gradient norms of A": "grad/A", "of B": "grad/B"})
    return _caption.lines(_curves.zeros(frame), ends, *_curves.explained(frame, grid))


def _mark_zeros(panel, runs: pd.DataFrame, column: str) -> None:
    """An exact zero has no place on a logarithmic axis: say so at step 0, on the bottom edge."""
    start = runs[runs["step"] == 0]
    for init, values in start.groupby("init.name")[column]:
        if (values == 0).all():
            look = style.look(init)
            panel.plot(0, 0, "v", color=look.color, clip_on=False, transform=panel.get_xaxis_transform(), zorder=3)
            place = {"xytext": (5, 5), "textcoords": "offset points", "xycoords": panel.get_xaxis_transform()}
            panel.annotate("0 at step 0", (0, 0), color=look.color, fontsize=7, **place)

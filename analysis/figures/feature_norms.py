"""Z_A and Z_B against step at the best learning rate of each init, smallest and largest width, with the loss below."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption, _curves
from analysis.figures._needs import CURVE
from analysis.grid import Grid

RECORDS = ("lr_vs_width",)
COLUMNS = ["feature/Z_A", "feature/Z_B", "train/loss"]
NEEDS = (CURVE,)
MEASURED = COLUMNS


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, axes = _curves.subplots(grid, len(COLUMNS), height=1.7)
    for panel, column, width in _curves.panels(frame, COLUMNS, axes, grid):
        if column == COLUMNS[0]:
            panel.set_title(f"$n = {width}$")
        if column == COLUMNS[-1]:
            panel.set_xlabel("step")
            style.legend_below(panel)
    style.heading(fig, _caption.short(frame, _caption.short_bands(frame)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid = Grid.of(frame)
    sizes = {"Z_A": "feature/Z_A", "Z_B": "feature/Z_B", "the training loss": "train/loss"}
    return _caption.lines(_curves.at_end(frame, grid, sizes), *_curves.explained(frame, grid))

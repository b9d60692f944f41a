"""Gradient norms, Z_A and the increments of language models against step, at the best learning rate of each init.

Means over layers, of the smallest and the largest width.
"""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption, _curves
from analysis.figures._needs import CURVE
from analysis.grid import Grid, held_out

RECORDS = ("lm_lr_sensitivity",)
COLUMNS = ["grad/A", "grad/B", "feature/Z_A", "feature/delta_1", "feature/delta_2", "feature/delta_3"]
NEEDS = (CURVE,)
MEASURED = COLUMNS
LABELS = [style.COLUMNS[name] for name in COLUMNS[:3]] + [rf"$\delta_{i}$" for i in (1, 2, 3)]


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(held_out(frame))
    fig, axes = _curves.subplots(grid, len(COLUMNS), height=1.2)
    for panel, column, width in _curves.panels(frame, COLUMNS, axes, grid):
        if column == COLUMNS[0]:
            panel.set_title(f"$n = {width}$")
        if column == COLUMNS[-1]:
            panel.set_xlabel("step")
            style.legend_below(panel)
    for row, label in zip(axes, LABELS, strict=True):
        row[0].set_ylabel(label)
    style.heading(fig, _caption.short(frame, "means over layers", _caption.short_bands(frame)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid = Grid.of(held_out(frame))
    sizes = {"Z_A": "feature/Z_A", "δ1": "feature/delta_1", "δ2": "feature/delta_2"}
    return _caption.lines(
        _curves.at_end(frame, grid, sizes),
        "All quantities are means over the adapted layers; increments at the end are those of the last update.",
        *_curves.explained(frame, grid),
    )

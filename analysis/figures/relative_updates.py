"""Updates of A and B over their size, against step at the best learning rate of each init, smallest and largest width."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption, _curves
from analysis.figures._needs import CURVE
from analysis.grid import Grid

RECORDS = ("lr_vs_width",)
RATIOS = {f"relative/{side}": (f"update/{side}", f"param/{side}") for side in "AB"}
NEEDS = (CURVE,)
MEASURED = [column for pair in RATIOS.values() for column in pair]


def figure(frame: pd.DataFrame) -> Figure:
    frame, grid = _with_ratios(frame), Grid.of(frame)
    fig, axes = _curves.subplots(grid, len(RATIOS), height=2.0)
    last = [*RATIOS][-1]
    for panel, column, width in _curves.panels(frame, [*RATIOS], axes, grid):
        if panel.get_yscale() == "log":  # something is drawn
            panel.set_xscale("log")  # from step 1 on: under Init[A] and Init[B] there is no ratio before
        if column == last:
            panel.set_xlabel("step")
            style.legend_below(panel)
        else:
            panel.set_title(f"$n = {width}$")
    style.heading(fig, _caption.short(frame, _caption.short_bands(frame)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    frame, grid = _with_ratios(frame), Grid.of(frame)
    sizes = {"‖ΔA‖/‖A‖": "relative/A", "‖ΔB‖/‖B‖": "relative/B"}
    last = _curves.at_end(frame, grid, sizes, last="the last update that is recorded")
    return _caption.lines(last, *_curves.explained(frame, grid))


def _with_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """nan where the factor is zero, as one of them is before the first update."""
    ratios = {
        name: frame[update] / frame[size].where(frame[size] > 0, np.nan) for name, (update, size) in RATIOS.items()
    }
    return frame.assign(**ratios)

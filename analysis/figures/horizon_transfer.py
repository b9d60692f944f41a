"""Best learning rate against the number of steps, and the loss that each rate ends with, on a language model."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption
from analysis.figures._message import label, trend
from analysis.figures._needs import TWO_RATES, Need
from analysis.figures._scaling import against_width
from analysis.grid import Grid
from analysis.scaling import MIN_WIDTHS, best_lrs

RECORDS = ("horizon_transfer",)
AXES = ("steps",)
NEEDS = (Need("steps", MIN_WIDTHS, "steps=60,120,240,480"), TWO_RATES)


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.along(frame, "steps")
    fig, ((panel,),) = style.subplots(1, 1, 2.6, width=0.6, extra=style.legend_room(len(grid.inits)))
    against_width(panel, grid, {}, best_lrs, symbol="T", axis="steps")
    panel.set_ylabel("best learning rate")
    style.heading(fig, _caption.short(frame, _caption.short_bars(frame)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid = Grid.along(frame, "steps")
    slopes = {init: trend(grid, init, best_lrs) for init in grid.inits}
    parts = [
        f"{_caption.power(s.slope, 'T')} under {label(init)}" for init, s in slopes.items() if s.count >= MIN_WIDTHS
    ]
    return _caption.lines(
        f"The best learning rate moves with the number of steps T as {_caption.listed(parts)}."
        if parts
        else "These runs have too few numbers of steps with a best rate off the grid's edge for an exponent.",
        "Lines are fits; where points lie off their line, no single power law holds.",
        _caption.runs(frame),
        _caption.bars(frame),
    )

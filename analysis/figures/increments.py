"""δ1, δ2, δ3 against step at the largest width, and δ2/δ1 a few steps in against width."""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption, _curves
from analysis.figures._message import trends
from analysis.figures._needs import CURVE
from analysis.figures._scaling import against_width
from analysis.grid import Grid
from analysis.scaling import features, sizes
from analysis.tables.records import EARLY
from analysis.theory import RATIO, exponents, setting

RECORDS = ("lr_vs_width",)
NEEDS = (CURVE,)
MEASURED = tuple(style.INCREMENTS)
RATIOS = partial(sizes, column=RATIO)


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame, features(frame))
    fig, axes = style.wrapped(len(grid.inits) + 1, height=2.8, columns=3)
    for panel, init in zip(axes, grid.inits, strict=False):
        _curve(panel, frame, grid, init)
    _curves.same_limits(axes[:-1])
    axes[0].set_ylabel("size of increment")
    style.legend_below(axes[0])
    against_width(axes[-1], grid, exponents(setting(frame), grid.inits, RATIO), RATIOS, short=True)
    axes[-1].set_title(rf"$\delta_2/\delta_1$ at step {EARLY}")
    fig.legend(handles=style.init_handles(grid.inits), loc="outside lower center", ncols=4)
    bars = _caption.short_bars(frame)
    style.heading(fig, _caption.short(frame, _caption.short_bands(frame), bars and f"bars: {bars}"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid = Grid.of(frame, features(frame))
    if len(grid.widths) > 1:
        message = trends(grid, RATIOS, f"δ2/δ1 at step {EARLY}")
    else:
        message = _curves.at_end(frame, grid, {"δ1": "feature/delta_1", "δ2": "feature/delta_2"}, step=EARLY)
    return _caption.lines(
        message,
        "δ1 is the move of Z_B by A's update alone, δ2 by that of B, and δ3 by both: a small δ2/δ1 says that B hardly learns.",
        f"Curves are of n = {grid.widths[-1]}, each init at its best learning rate; dotted lines against width are predicted.",
        _caption.runs(frame),
        _caption.joined(_caption.bands(frame), _caption.bars(frame)),
    )


def _curve(panel: Axes, frame: pd.DataFrame, grid: Grid, init: str) -> None:
    """The increments of an init at the largest width."""
    width = int(grid.widths[-1])
    runs = _curves.at_best(frame, grid, init, width)
    for column, look in style.INCREMENTS.items():
        _curves.draw(panel, runs, column, look.color, look.line, look.label)
    style.log_y(panel)
    edge = "\n(lr at the grid's edge)" * grid.best(init, width).edge
    panel.set(xlabel="step", title=f"{style.look(init).label}, $n = {width}$" + edge)

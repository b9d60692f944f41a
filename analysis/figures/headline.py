"""Which init, at which rate, and at what price: loss against rate at the widest width, best rates and Z_A against width."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style, theory
from analysis.figures import _caption, _sensitivity
from analysis.figures._message import Measure, Trend, contest, label, steeper, trend, trends
from analysis.figures._needs import OFF_THE_EDGE, TWO_WIDTHS
from analysis.figures._scaling import against_width, not_fitted
from analysis.grid import BY_HELD_OUT, Grid
from analysis.scaling import MIN_SEEDS, best_lrs, features, sizes

RECORDS = ("lr_vs_width",)
NEEDS = (TWO_WIDTHS, OFF_THE_EDGE)
FINAL_Z_A: Measure = partial(sizes, column="final/feature/Z_A")


def figure(frame: pd.DataFrame) -> Figure:
    grid, task = Grid.of(frame, features(frame)), theory.setting(frame)
    fig, [[loss, rate, inner]] = style.subplots(1, 3, height=3.0 + style.legend_room(len(grid.inits)))
    handles = _losses(loss, frame, grid)
    against_width(rate, grid, theory.exponents(task, grid.inits, "lr"), best_lrs, short=True)
    not_fitted(rate, grid, best_lrs, why=None)
    rate.set(ylabel="best learning rate", title=_title(grid, best_lrs, "Best rate"))
    against_width(inner, grid, theory.exponents(task, grid.inits, "feature/Z_A"), FINAL_Z_A, short=True)
    growth = _title(grid, FINAL_Z_A, "$Z_A$")
    inner.set(ylabel="final size of $Z_A$", title="Price: " * ("grows" in growth) + growth)
    _sensitivity.legend_below(fig, handles)
    dotted = "dotted: theory" if task and len(grid.widths) > 1 else ""
    style.heading(fig, _caption.short(frame, _caption.short_bars(frame), dotted))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid, task = Grid.of(frame, features(frame)), theory.setting(frame)
    last = contest(grid, int(grid.widths[-1]), nats=task_of(frame) in BY_HELD_OUT)
    dotted = "lines against width are fits, and dotted ones the predicted powers."
    pair = sorted(last.inits) or grid.inits
    return _caption.lines(
        last.sentence,
        trends(grid, best_lrs, "the best learning rate", pair),
        trends(grid, FINAL_Z_A, "the size of Z_A at the last step", pair),
        _caption.runs(frame),
        _caption.joined(_caption.bars(frame), dotted if task and len(grid.widths) > 1 else ""),
    )


def task_of(frame: pd.DataFrame) -> str:
    return frame["task.name"].iloc[0]


def _losses(panel: Axes, frame: pd.DataFrame, grid: Grid) -> list[Line2D]:
    """Loss against rate at the widest width, with the best rates; handles of what is shown, for the figure's legend."""
    width, nats = int(grid.widths[-1]), task_of(frame) in BY_HELD_OUT
    starts = {w: loss for w, loss in _sensitivity.frozen(frame).items() if w == width} if nats else None
    rates = _sensitivity.best_rates(grid)
    broken = _sensitivity.curves(panel, grid, width, rates, starts)
    _sensitivity.value_axes([panel], grid, starts)
    panel.set_xlabel(f"learning rate, at $n = {width}$")
    panel.set_ylabel(f"final {'held-out loss (nats)' if nats else 'training loss'}")
    panel.set_title(contest(grid, width, nats).title)
    edges = {init: _sensitivity.at_edge(grid, init, width) for init in grid.inits}
    best = []
    for init in grid.inits:
        look, rate = style.look(init), rates[init, width]
        if np.isfinite(rate.value):
            text = _caption.ratio(rate) + " (edge)" * edges[init]
            best.append(Line2D([], [], color=look.color, marker=look.marker, linestyle="none", label=text))
    if best:
        title = "best rate" + " [95% interval]" * (len(grid.seeds) >= MIN_SEEDS)
        style.legend_below(panel, handles=best, title=title, title_fontsize=7, handlelength=1.2)
    edge = any(edges.values())
    return _sensitivity.legend_entries(grid, broken, edge, starts)


def _title(grid: Grid, measure: Measure, what: str) -> str:
    """What moves with width, as far as the intervals tell."""
    found = [trend(grid, init, measure) for init in grid.inits]
    known = [t for t in found if t.direction]
    if not known:
        return f"{what} against width" + "\n(no trend decided)" * (len(grid.widths) > 1)
    verb = {1: "grows", -1: "falls"}
    if len(known) == len(found) and len({t.direction for t in known}) == 1:
        return f"{what} {verb[known[0].direction]} with width{_faster(grid, measure, known)}"
    return f"{what} " + ",\n".join(f"{verb[t.direction]} under {label(t.init)}" for t in known)


def _faster(grid: Grid, measure: Measure, found: list[Trend]) -> str:
    """Which of two trends of one direction is the steeper, where their intervals tell."""
    if len(found) != 2:
        return ""
    gap, direction = steeper(grid, grid.inits, measure), found[0].direction
    first = 1 if gap.low > 0 else -1 if gap.high < 0 else 0
    return f",\nfaster for {label(grid.inits[0 if first == direction else 1])}" if first else ""

"""Whether factors leave the subspace in which they start, how many directions B·A has, and how many of them the pretrained weight
does not have, against width."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.claims import subject
from analysis.figures import _caption
from analysis.figures._message import label, trend
from analysis.figures._needs import OFF_THE_EDGE, THREE_WIDTHS
from analysis.figures._rows import by_task
from analysis.figures._scaling import against_width
from analysis.grid import Grid
from analysis.rotation import OVERLAPS, RANK, entropy_rank, intruders, left, predicted, rotations
from analysis.scaling import bootstrap

RECORDS = ("rotation",)
AXES = ("task.name",)
NEEDS = (THREE_WIDTHS, OFF_THE_EDGE)
MEASURED = (*OVERLAPS.values(), RANK)


def figure(frame: pd.DataFrame) -> Figure:
    parts = [(task, part, rotations(part)) for task, part in by_task(frame)]
    inits = sorted({init for *_, grid in parts for init in grid.inits})
    extra = style.legend_room(len(inits), 2, 0) + 2 * style.legend_room(len(inits) + 1)
    fig, axes = style.subplots(3, len(parts), height=2.0, extra=extra)
    for (task, part, grid), (share, rank, count) in zip(parts, axes.T, strict=True):
        against_width(share, grid, {init: predicted(task, init) for init in grid.inits}, left, short=True)
        against_width(rank, grid, {}, entropy_rank, short=True)
        _counts(count, grid)
        share.set_title(subject(part), loc="left")
    axes[0, 0].set_ylabel("share of the start's span\nthat was left")
    axes[1, 0].set_ylabel("entropy rank of $BA$")
    axes[2, 0].set_ylabel("intruder dimensions\nof a layer")
    fig.legend(handles=style.init_handles(inits), loc="outside lower center", ncols=2)
    bars = _caption.short_bars(frame)
    style.heading(fig, "at the end of training, each at its best learning rate" + (bars and f"; bars: {bars}"))
    return fig


def _counts(axes: Axes, grid: Grid) -> None:
    """Intruder dimensions against width, which may be none."""
    for init in grid.inits:
        look, found = style.look(init), bootstrap(grid, lambda g, init=init: intruders(g, init))
        middle, low, high = (np.array([getattr(e, name) for e in found]) for name in ("value", "low", "high"))
        bars = [np.nan_to_num(np.maximum(middle - low, 0)), np.nan_to_num(np.maximum(high - middle, 0))]
        axes.errorbar(
            grid.widths,
            middle,
            bars,
            color=look.color,
            marker=look.marker,
            linestyle=look.line,
            elinewidth=0.9,
            capsize=2,
        )
    style.width_axis(axes, grid.widths, "width $n$")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def caption(frame: pd.DataFrame) -> str:
    return _caption.lines(
        *(_told(subject(part), rotations(part)) for _, part in by_task(frame)),
        "The random factor is A under Init[A] and B under Init[B]; dotted lines have the exponents of counting. An "
        "intruder dimension is one of the weight's 10 first left singular vectors that has no cosine of 0.5 with one of W0's.",
        _caption.runs(frame),
        _caption.bars(frame, "bars"),
    )


def _told(task: str, grid: Grid) -> str:
    """How much of its start the random factor has left at the largest width, and how that changes with it."""
    found = []
    for init in grid.inits:
        share, slope = np.exp(left(grid, init)[-1]), trend(grid, init, left)
        if np.isfinite(share) and slope.count > 1:
            found.append(f"{100 * share:.2g}% of it ({_caption.power(slope.slope)}) under {label(init)}")
    if not found:
        return f"On {task}, no best rate at the largest width lies off the edge of the grid."
    return (
        f"On {task}, the random factor has left its start's span by {_caption.listed(found)} at n = {grid.widths[-1]}."
    )

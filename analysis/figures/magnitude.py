"""PiSSA and OLoRA beside controls of their directions and of their size: best loss and best rate."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.arms import CONTROLS, controls, parted
from analysis.claims import subject
from analysis.figures import _caption
from analysis.figures._needs import OFF_THE_EDGE
from analysis.figures._rows import arm_label, best_loss, best_rate, by_task, dots, log_x, lowest_first, row_height, rows
from analysis.grid import Grid, loss_name
from analysis.scaling import bootstrap

RECORDS = ("magnitude",)
AXES = ("task.name", *CONTROLS)
NEEDS = (OFF_THE_EDGE,)


def figure(frame: pd.DataFrame) -> Figure:
    parts = [(part, controls(part)) for _, part in by_task(frame)]
    height = row_height(max(len(grid.inits) for _, grid in parts))
    fig, panels = style.subplots(len(parts), 2, height=height, extra=0.3, sharey="row")
    for (part, grid), row in zip(parts, panels, strict=True):
        arms = lowest_first(grid)
        of_arms = [style.look(parted(arm)[0]) for arm in arms]
        edges = [grid.best(arm, grid.widths[0]).edge for arm in arms]
        for panel, measure in zip(row, (best_loss, best_rate), strict=True):
            found = [bootstrap(grid, partial(measure, init=arm))[0] for arm in arms]
            dots(panel, found, [of.color for of in of_arms], edges, markers=[of.marker for of in of_arms])
        log_x(row[0], f"best {loss_name(part)}")
        log_x(row[1], "best lr")
        rows(row[0], [arm_label(arm) for arm in arms])
        rows(row[1], None)
        row[0].set_title(f"{subject(part)}, n = {grid.widths[0]}", loc="left")
    style.heading(fig, _caption.short(frame, _caption.short_bars(frame), "hollow: best lr at the grid's edge"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    return _caption.lines(
        *(_told(subject(part), controls(part)) for _, part in by_task(frame)),
        "Controls keep what they do not name; a row of LoRA's A has norm 1 in the mean. Rows are sorted by their loss.",
        _caption.runs(frame),
        _caption.bars(frame, "bars"),
    )


def _told(task: str, grid: Grid) -> str:
    """The arms with the lowest and the highest best rate."""
    bests = {arm: grid.best(arm, grid.widths[0]) for arm in grid.inits}
    rates = {arm: best.lr for arm, best in bests.items() if not best.edge and np.isfinite(best.lr)}
    if not rates:
        return f"On {task}, no best rate lies off the edge of the grid."
    low, high = min(rates, key=rates.get), max(rates, key=rates.get)
    number = _caption.number
    return f"On {task}, best rates lie from {number(rates[low])} ({arm_label(low)}) to {number(rates[high])} ({arm_label(high)})."

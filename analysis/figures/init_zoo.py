"""Every init at its own best rate: best loss, the band of good rates around the best, the loss after one step, δ1 and δ2.

The loss after one step is that of one batch, the same for all inits of a seed: it is shown over the geometric mean of the inits.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures import _caption
from analysis.figures._needs import TWO_RATES
from analysis.figures._rows import best_loss, best_rate, by_task, dots, log_x, lowest_first, row_height, rows
from analysis.grid import BY_HELD_OUT, Grid
from analysis.scaling import START, bootstrap, features
from analysis.tables.records import BOTH_MOVED

RECORDS = ("init_zoo",)
AXES = ("task.name",)
NEEDS = (TWO_RATES,)
GOOD = 1.5  # times the best loss (on language models, GOOD_NATS above it): a rate within is a good one
GOOD_NATS = 0.05
DELTAS = ("feature/delta_1", "feature/delta_2")
RESIDUAL = ("gaussian_AB", "pissa", "milora", "olora", "loftq")
KIND = (
    dict.fromkeys(RESIDUAL, "residual")
    | dict.fromkeys(("eva", "lora_one"), "data")
    | dict.fromkeys(("corda", "lora_ga"), "both")
)


def figure(frame: pd.DataFrame) -> Figure:
    parts = by_task(frame)
    height = row_height(frame["init.name"].nunique())
    fig, panels = style.subplots(len(parts), 4, height=height, extra=0.8, sharey="row")
    for (_, part), row in zip(parts, panels, strict=True):
        _task(part, row)
    kinds = [style.KINDS[kind] for kind in style.KINDS if kind in set(map(_kind, frame["init.name"].unique()))]
    handles = [Line2D([], [], color=k.color, marker=k.marker, linestyle="none", label=k.label) for k in kinds]
    grey = {"color": "0.4", "linestyle": "none"}
    handles += [
        Line2D([], [], marker="o", fillstyle="none", label="best lr at the grid's edge", **grey),
        Line2D([], [], color="0.4", linewidth=3, alpha=0.4, label="rates that are nearly as good"),
        Line2D([], [], marker="<", label=rf"$\delta_1$ at step {BOTH_MOVED}", **grey),
        Line2D([], [], marker=">", label=rf"$\delta_2$ at step {BOTH_MOVED}", **grey),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    bars = _caption.short_bars(frame)
    style.heading(fig, "each at its own best learning rate" + (bars and f"; bars: {bars}"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    found = [sentence for task, part in by_task(frame) if (sentence := _lowest(task, part))]
    return _caption.lines(
        f"At its own best rate, the lowest mean of final losses has {'; '.join(found)}."
        if found
        else "No run finished.",
        f"Pale bars are rates around the best at which the loss is within {GOOD:g} times the best (of language models: within "
        f"{GOOD_NATS:g} nats of it); the loss after one step is shown over the geometric mean of the inits.",
        "Rows are sorted by their loss; hollow marks have their best rate at the grid's edge.",
        _caption.runs(frame),
        _caption.bars(frame, "thin bars"),
    )


def _lowest(task: str, frame: pd.DataFrame) -> str:
    """Which init ends lowest on a task, and how far the best rates of all lie apart."""
    grid = Grid.of(frame)
    bests = {init: grid.best(init, grid.widths[0]) for init in lowest_first(grid)}
    losses = [(best.log_loss, init) for init, best in bests.items() if np.isfinite(best.log_loss)]
    if not losses:
        return ""
    loss, init = losses[0]
    rates = [best.lr for best in bests.values() if not best.edge]
    among = f", best rates {_caption.number(min(rates))} to {_caption.number(max(rates))}" if len(rates) > 1 else ""
    return f"{init} on {task} ({np.exp(loss):.3g} of {_caption.counted(len(losses), 'init')}{among})"


def _kind(init: str) -> str:
    return KIND.get(init, "plain")


def _grid(frame: pd.DataFrame, step: int) -> Grid:
    """The sweep on a task with its features, and the training loss after the first logged step."""
    columns = features(frame)
    if frame["task.name"].iloc[0] not in BY_HELD_OUT:
        columns = columns.drop(columns=START, errors="ignore")
    first = frame[frame["step"] == step].set_index("run_id")["train/loss"]
    return Grid.of(frame, columns.assign(first=first))


def _task(frame: pd.DataFrame, row: np.ndarray) -> None:
    """All four quantities on a task, a row an init."""
    step = frame.loc[frame["step"] > 0, "step"].min()  # 1, where every step was logged
    grid = _grid(frame, step)
    task, width = frame["task.name"].iloc[0], grid.widths[0]
    inits = lowest_first(grid)
    looks = [style.KINDS[_kind(init)] for init in inits]
    colors, markers = [look.color for look in looks], [look.marker for look in looks]
    edges = [grid.best(init, width).edge for init in inits]
    delta_1, delta_2 = (partial(at_best, column=f"start/{delta}") for delta in DELTAS)
    marked = ((0, best_loss, None, 0.0), (1, best_rate, None, 0.0), (3, delta_1, "<", -0.15), (3, delta_2, ">", 0.15))
    for panel, measure, marker, offset in marked:
        found = [bootstrap(grid, partial(measure, init=init))[0] for init in inits]
        dots(row[panel], found, colors, edges, offset, [marker] * len(inits) if marker else markers)
    dots(row[2], bootstrap(grid, partial(_against_mean, inits=inits)), colors, edges, 0.0, markers)
    for i, init in enumerate(inits):
        low, high = np.exp(band(grid, init))
        row[1].plot([low, high], [i, i], color=colors[i], linewidth=3, alpha=0.3, solid_capstyle="butt")
    rows(row[0], inits)
    for panel in row[1:]:
        rows(panel, None)
    good = f"best + {GOOD_NATS:g}" if task in BY_HELD_OUT else f"{GOOD:g} × best"
    log_x(row[0], f"best {'held-out' if task in BY_HELD_OUT else 'training'} loss")
    log_x(row[1], f"best lr; loss ≤ {good}")
    log_x(row[2], f"loss at step {step} / mean")
    log_x(row[3], r"size of $\delta_1$, $\delta_2$")
    row[0].set_title(f"{task}, n = {width}, {_caption.counted(len(grid.seeds), 'seed')}", loc="left")


def _against_mean(grid: Grid, inits: Sequence[str]) -> np.ndarray:
    """Log of the loss after one step, over the geometric mean of the inits."""
    logs = np.concatenate([at_best(grid, init, "first") for init in inits])
    return logs - np.nanmean(logs) if np.isfinite(logs).any() else logs


def at_best(grid: Grid, init: str, column: str) -> np.ndarray:
    """Log of a column at the grid's best rate."""
    return np.array([grid.value(column, init, grid.widths[0], grid.best(init, grid.widths[0]).grid_lr)])


def band(grid: Grid, init: str) -> tuple[float, float]:
    """Logs of the lowest and the highest rate around the best at which the loss is good, between rates of the grid by line."""
    scores, lrs = grid.scores(init, grid.widths[0]), np.log(grid.lrs)
    if not np.isfinite(scores).any():
        return np.nan, np.nan
    best = int(np.nanargmin(np.where(np.isfinite(scores), scores, np.inf)))
    limit = np.log(np.exp(scores[best]) + GOOD_NATS) if START in grid.columns else scores[best] + np.log(GOOD)
    ends = []
    for step in (-1, 1):
        i = best
        while 0 <= i + step < len(lrs) and scores[i + step] <= limit:
            i += step
        end = lrs[i]
        if 0 <= i + step < len(lrs) and np.isfinite(scores[i + step]):
            end += (lrs[i + step] - lrs[i]) * (limit - scores[i]) / (scores[i + step] - scores[i])
        ends.append(end)
    return ends[0], ends[1]

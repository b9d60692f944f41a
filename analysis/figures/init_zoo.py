"""Every init at its own best rate: best loss, the band of good rates around the best, the loss after one step, δ1 and δ2.

The loss after one step is that of one batch, the same for all inits of a seed: it is shown over the geometric mean of the inits.
"""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures._rows import best_loss, best_rate, dots, log_x, rows
from analysis.grid import BY_HELD_OUT, Grid, split
from analysis.records import BOTH_MOVED
from analysis.scaling import START, bootstrap, features

RECORDS = ("init_zoo",)
AXES = ("task.name",)
GOOD = 1.5  # times the best loss (on language models, GOOD_NATS above it): a rate within is a good one
GOOD_NATS = 0.05
DELTAS = ("feature/delta_1", "feature/delta_2")
LOOKS = {"plain": ("#000000", "o"), "residual": ("#0072B2", "s"), "data": ("#D55E00", "D"), "both": ("#CC79A7", "^")}
KINDS = {
    "plain": "frozen weight as it was", "residual": "product taken from the frozen weight (loftq: rounded)",
    "data": "drawn from data", "both": "drawn from data, taken from the frozen weight",
}  # fmt: skip
RESIDUAL = ("gaussian_AB", "pissa", "milora", "olora", "loftq")
KIND = (
    dict.fromkeys(RESIDUAL, "residual")
    | dict.fromkeys(("eva", "lora_one"), "data")
    | dict.fromkeys(("corda", "lora_ga"), "both")
)


def figure(frame: pd.DataFrame) -> Figure:
    parts = sorted(
        split(frame, AXES).values(),
        key=lambda part: (part["task.name"].iloc[0] in BY_HELD_OUT, part["task.name"].iloc[0]),
    )
    inits = frame["init.name"].nunique()
    fig, panels = style.subplots(len(parts), 4, height=0.7 + 0.145 * inits, sharey="row")
    for part, row in zip(parts, panels, strict=True):
        _task(part, row)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="none", label=KINDS[kind])
        for kind, (color, marker) in LOOKS.items()
    ]
    handles += [
        Line2D([], [], color="0.4", marker="o", fillstyle="none", linestyle="none", label="best lr at the grid's edge"),
        Line2D([], [], color="0.4", linewidth=3, alpha=0.4, label="rates that are nearly as good"),
        Line2D([], [], color="0.4", marker="<", linestyle="none", label=rf"$\delta_1$ at step {BOTH_MOVED}"),
        Line2D([], [], color="0.4", marker=">", linestyle="none", label=rf"$\delta_2$ at step {BOTH_MOVED}"),
    ]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def _task(frame: pd.DataFrame, row: np.ndarray) -> None:
    columns = features(frame)
    step = frame.loc[frame["step"] > 0, "step"].min()  # 1, where every step was logged
    first = frame[frame["step"] == step].set_index("run_id")["train/loss"]
    if frame["task.name"].iloc[0] not in BY_HELD_OUT:
        columns = columns.drop(columns=START, errors="ignore")
    grid = Grid.of(frame, columns.assign(**{"first": first}))
    task, width = frame["task.name"].iloc[0], grid.widths[0]
    inits = sorted(grid.inits, key=lambda init: grid.best(init, width).log_loss)
    colors, markers = zip(*(LOOKS[KIND.get(init, "plain")] for init in inits), strict=True)
    edges = [grid.best(init, width).edge for init in inits]
    first_step, delta_1, delta_2 = (partial(at_best, column=c) for c in ("first", *(f"start/{d}" for d in DELTAS)))
    measures = (
        (row[0], best_loss, None, 0.0), (row[1], best_rate, None, 0.0),
        (row[3], delta_1, "<", -0.15), (row[3], delta_2, ">", 0.15),
    )  # fmt: skip
    for panel, measure, marker, offset in measures:
        found = [bootstrap(grid, partial(measure, init=init))[0] for init in inits]
        dots(panel, found, colors, edges, offset, [marker] * len(inits) if marker else markers)

    def against_mean(sample: Grid) -> np.ndarray:
        logs = np.concatenate([first_step(sample, init) for init in inits])
        return logs - np.nanmean(logs) if np.isfinite(logs).any() else logs

    dots(row[2], bootstrap(grid, against_mean), colors, edges, 0.0, markers)
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
    row[0].set_title(f"{task}, n = {width}, {len(grid.seeds)} seeds", loc="left")


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

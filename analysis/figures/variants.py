"""LoRA, rsLoRA, DoRA and VeRA from either side: best loss, best rate, the rate at which they break, and what they train."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style, theory
from analysis.claims import lowest_breaking
from analysis.figures._rows import best_loss, best_rate, dots, log_x, rows
from analysis.grid import BY_HELD_OUT, Grid, split
from analysis.load import per_run
from analysis.scaling import START, Estimate, bootstrap, features

RECORDS = ("variants",)
AXES = ("task.name", "adapter.name")
ADAPTERS = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "vera": "VeRA"}
SIDES = {
    "A": ("outer factor starts at zero (Init[A], vera_b0)", "#0072B2"),
    "B": ("inner factor starts at zero (Init[B], vera_d0)", "#E69F00"),
}
SIDE = {"vera_b0": "A", "vera_d0": "B"} | theory.FAMILY
OTHER = ("another start", "#7F7F7F")


def figure(frame: pd.DataFrame) -> Figure:
    tasks = sorted(frame["task.name"].unique(), key=lambda task: (task in BY_HELD_OUT, task))
    fig, panels = style.subplots(len(tasks), 4, height=1.75, sharey="row")
    for task, row in zip(tasks, panels, strict=True):
        arms = _arms(frame[frame["task.name"] == task])
        colors = [SIDES.get(side, OTHER)[1] for _, side, _, _ in arms]
        for panel, measure in zip(row, (best_loss, best_rate, _edge), strict=False):
            found = [bootstrap(grid, partial(measure, init=init))[0] for _, _, grid, init in arms]
            dots(panel, found, colors, [_open(measure, grid, init) for _, _, grid, init in arms])
        counts = [Estimate(np.log(_count(grid, init)), np.nan, np.nan) for _, _, grid, init in arms]
        dots(row[3], counts, colors, [False] * len(arms))
        rows(row[0], [label for label, *_ in arms])
        for panel in row[1:]:
            rows(panel, None)
        loss = "best held-out loss" if task in BY_HELD_OUT else "best training loss"
        for panel, label in zip(
            row, (loss, "best lr", "lowest lr that breaks down", "trainable parameters"), strict=True
        ):
            log_x(panel, label)
        width = arms[0][2].widths[0]
        row[0].set_title(f"{task}, n = {width}, {len(arms[0][2].seeds)} seeds", loc="left")
    starts = [*SIDES.values(), *([OTHER] if set(frame["init.name"]) - SIDE.keys() else [])]
    handles = [Line2D([], [], color=color, marker="o", linestyle="none", label=label) for label, color in starts]
    handles.append(
        Line2D(
            [],
            [],
            color="0.4",
            marker="o",
            fillstyle="none",
            linestyle="none",
            label="at or beyond the grid's edge: a bound",
        )
    )
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def _arms(frame: pd.DataFrame) -> list[tuple[str, str, Grid, str]]:
    """(label, side, grid, init) of every adapter under every init."""
    arms = []
    for (adapter,), part in split(frame, ["adapter.name"]).items():
        columns = per_run(part).set_index("run_id")[["summary.trainable_parameters"]].join(features(part))
        if part["task.name"].iloc[0] not in BY_HELD_OUT:
            columns = columns.drop(columns=START, errors="ignore")
        grid = Grid.of(part, columns)
        for init in grid.inits:
            side = SIDE.get(init, "")
            name = ADAPTERS.get(adapter, adapter)
            of_vera = {"vera_b0": "b = 0", "vera_d0": "d = 0"}
            label = f"{name}, {of_vera.get(init) or style.look(init).label}"
            arms.append((label, side, grid, init))
    return sorted(arms, key=lambda arm: (list(ADAPTERS.values()).index(arm[0].partition(",")[0]), arm[1]))


def _edge(grid: Grid, init: str) -> np.ndarray:
    """Mean over seeds of the log of the lowest rate that breaks down; the next beyond those tried where none breaks a seed."""
    tried = np.log(grid.lrs[~np.isnan(grid.scores(init, grid.widths[0]))])
    beyond = 2 * tried[-1] - tried[-2] if len(tried) > 1 else np.nan
    return np.array([np.minimum(lowest_breaking(grid, init)[0], beyond).mean()])


def _open(measure: Callable[[Grid, str], np.ndarray], grid: Grid, init: str) -> bool:
    """Whether the true value may lie beyond the grid."""
    if measure is _edge:
        return bool(np.isposinf(lowest_breaking(grid, init)).any())
    return grid.best(init, grid.widths[0]).edge


def _count(grid: Grid, init: str) -> float:
    return float(np.nanmax(grid.columns["summary.trainable_parameters"][grid.inits.index(init)]))

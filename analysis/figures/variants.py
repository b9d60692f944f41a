"""LoRA, rsLoRA, DoRA and VeRA from either side: best loss, best rate, the rate at which they break, and what they train."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style, theory
from analysis.breakdown import lowest_breaking
from analysis.figures import _caption
from analysis.figures._needs import TWO_RATES, Need
from analysis.figures._rows import best_loss, best_rate, by_task, dots, log_x, row_height, rows
from analysis.grid import BY_HELD_OUT, Grid, split
from analysis.scaling import START, Estimate, bootstrap, features
from analysis.tables.load import per_run

RECORDS = ("variants",)
AXES = ("task.name", "adapter.name")
NEEDS = (Need("adapter.name", 2, "adapter=lora,dora"), TWO_RATES)
MEASURED = ("summary.trainable_parameters",)
BASELINE = True
ADAPTERS = {"full": "full finetuning", "lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "vera": "VeRA"}
SIDE = {"vera_b0": "A", "vera_d0": "B"} | theory.FAMILY
LABELS = ("best lr", "lowest lr that breaks down", "trainable parameters")


def figure(frame: pd.DataFrame) -> Figure:
    tasks = [(task, _arms(part)) for task, part in by_task(frame)]
    height = row_height(max(len(arms) for _, arms in tasks))
    fig, panels = style.subplots(len(tasks), 4, height=height, extra=0.55, sharey="row")
    for (task, arms), row in zip(tasks, panels, strict=True):
        _task(row, arms)
        for panel, label in zip(
            row, (f"best {'held-out' if task in BY_HELD_OUT else 'training'} loss", *LABELS), strict=True
        ):
            log_x(panel, label)
        grid = arms[0][2]
        row[0].set_title(f"{task}, n = {grid.widths[0]}, {_caption.counted(len(grid.seeds), 'seed')}", loc="left")
    sides = sorted(
        {side for _, arms in tasks for _, side, _, _ in arms}, key=lambda side: list(style.SIDES).index(side)
    )
    grey = {"color": "0.4", "marker": "o", "linestyle": "none", "fillstyle": "none"}
    handles = [_handle(style.SIDES[side]) for side in sides]
    handles.append(Line2D([], [], label="at or beyond the grid's edge: a bound", **grey))
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    bars = _caption.short_bars(frame)
    style.heading(fig, "each at its own best learning rate" + (bars and f"; bars: {bars}"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    found = []
    for task, part in by_task(frame):
        lowest = [(grid.best(init, grid.widths[0]).log_loss, label) for label, _, grid, init in _arms(part)]
        finite = sorted(pair for pair in lowest if np.isfinite(pair[0]))
        if finite:
            loss, label = finite[0]
            found.append(f"{label} on {task} (loss {np.exp(loss):.3g}, of {len(finite)})")
    lowest = (
        f"The lowest mean of final losses has {_caption.listed(found)}." if found else "No run finished at any rate."
    )
    return _caption.lines(
        lowest,
        _sides(frame),
        "Each row is at its own best learning rate; hollow marks lie at the grid's edge and are bounds.",
        _caption.runs(frame),
        _caption.bars(frame, "bars"),
    )


def _sides(frame: pd.DataFrame) -> str:
    """How often either side ends lower, where the interval of the paired difference tells."""
    wins, pairs = {"A": 0, "B": 0}, 0
    for _, part in by_task(frame):
        for _, of_adapter in split(part, ["adapter.name"]).items():
            grid = Grid.of(of_adapter)
            pair = [next((init for init in grid.inits if SIDE.get(init) == side), None) for side in "AB"]
            if None in pair:
                continue
            pairs += 1
            gap = bootstrap(grid, lambda g, pair=pair: np.array([g.paired(*pair, g.widths[0]).mean()]))[0]
            wins["A"] += gap.high < 0
            wins["B"] += gap.low > 0
    if not pairs:
        return ""
    return (
        f"Of {_caption.counted(pairs, 'pair')} of starts of one adapter, the outer factor at zero ends lower in {wins['A']} "
        f"and the inner one in {wins['B']}; the seeds do not decide the rest."
    )


def _task(row: np.ndarray, arms: list[tuple[str, str, Grid, str]]) -> None:
    """Loss, rates and the number of parameters, a row an arm."""
    looks = [style.SIDES[side] for _, side, _, _ in arms]
    colors, markers = [look.color for look in looks], [look.marker for look in looks]
    for panel, measure in zip(row, (best_loss, best_rate, _edge), strict=False):
        found = [bootstrap(grid, partial(measure, init=init))[0] for _, _, grid, init in arms]
        hollow = [_open(measure, grid, init) for _, _, grid, init in arms]
        dots(panel, found, colors, hollow, markers=markers)
    counts = [Estimate(np.log(_count(grid, init)), np.nan, np.nan) for _, _, grid, init in arms]
    dots(row[3], counts, colors, [False] * len(arms), markers=markers)
    rows(row[0], [label for label, *_ in arms])
    for panel in row[1:]:
        rows(panel, None)


def _handle(look: style.Look) -> Line2D:
    return Line2D([], [], color=look.color, marker=look.marker, linestyle="none", label=look.label)


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
            start = of_vera.get(init) or style.look(init).label
            arms.append((", ".join(dict.fromkeys([name, start])), side, grid, init))
    order = [*ADAPTERS.values()]
    place = {name: i for i, name in enumerate(order)}
    return sorted(arms, key=lambda arm: (place.get(arm[0].partition(",")[0], len(order)), arm[1]))


def _edge(grid: Grid, init: str) -> np.ndarray:
    """Mean over seeds of the log of the lowest rate that breaks down."""
    lowest, _ = lowest_breaking(grid, init)
    return lowest[:1].mean(1)


def _open(measure: Callable[[Grid, str], np.ndarray], grid: Grid, init: str) -> bool:
    """Whether the true value may lie beyond the grid."""
    if measure is _edge:
        _, side = lowest_breaking(grid, init)
        return bool(side.any())
    return grid.best(init, grid.widths[0]).edge


def _count(grid: Grid, init: str) -> float:
    return float(np.nanmax(grid.columns["summary.trainable_parameters"][grid.inits.index(init)]))

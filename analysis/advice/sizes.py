"""The best learning rate at a width, a rank or a number of steps that was not trained: `advise --width 4096`.

Along a power law in the size, fitted to the best rates of the runs at hand; where these have one size, with the exponent of the
project's own records.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.advice.answers import groups, named, settings, written
from analysis.figures._caption import listed, number, power
from analysis.grid import Grid, NotShown
from analysis.scaling import MIN_SEEDS, Estimate, best_lrs, bootstrap
from analysis.tables import records
from analysis.tables.settings import balanced, without_baseline
from analysis.theory import ADAPTERS, FAMILY
from analysis.transfer import FIT, LEAST, SIZES, carried, slope_of, sweeps

OPTIONS = {"width": "task.width", "rank": "adapter.rank", "steps": "steps"}
# Whose exponents stand in where the runs have one size, by size and task.
RECORDS = {
    ("task.width", "language_model"): "lm_lr_sensitivity",
    ("task.width", "classification"): "lm_lr_sensitivity",
    ("task.width", "teacher_student"): "lr_vs_width",
    ("task.width", "feature_regression"): "width_exponents",
    ("adapter.rank", "feature_regression"): "rank_transfer",
    ("steps", "language_model"): "horizon_transfer",
}
OWN_RECORDS = Path(__file__).parent.parent.parent / "outputs"
FAR = 4.0  # times the range of the sizes that an exponent is from


@dataclass(frozen=True)
class Prediction:
    """The log of the best rate of a way at a size. `sizes`: those it is carried over from; `exponent`: along which, from the runs
    of `source`, an experiment of the project, or None: of the runs at hand."""

    name: str
    field: str
    size: int
    lr: Estimate
    exponent: Estimate
    sizes: list[int]
    source: str | None

    @property
    def far(self) -> float:
        """How many times beyond the sizes at hand it is."""
        return max(self.size / self.sizes[-1], self.sizes[0] / self.size)


def ways(runs: pd.DataFrame, field: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """What tells it from the others, and the runs, of every part that differs in nothing but the size, rate and seed. Of
    adapters, where there are any. Raises NotShown."""
    runs = without_baseline(runs).copy()
    if field == "adapter.rank" and "adapter.alpha" in runs:  # one that follows the rank is the same at every rank
        runs["adapter.alpha"] = runs["adapter.alpha"].where(runs["adapter.alpha"] != runs[field], "rank")
    if field not in runs or runs[field].isna().any():
        raise NotShown(f"some of these runs have no {field}; choose others with --where FIELD=VALUE")
    varying = [name for name in settings(runs) if name != field and runs[name].nunique(dropna=False) > 1]
    for part in groups(runs, varying):
        yield written(named(part, runs, varying) or {"init.name": part["init.name"].iloc[0]}), part


def prediction(name: str, runs: pd.DataFrame, field: str, size: int, outputs: Path) -> Prediction:
    """Of one of `ways`. Raises NotShown where neither its runs nor the records know how its best rate moves."""
    runs = balanced(runs.assign(**{"task.width": runs[field]}))
    grid = Grid.of(runs)
    [init] = grid.inits
    sizes = [int(n) for n, lr in zip(grid.widths, best_lrs(grid, init), strict=True) if np.isfinite(lr)]
    if not sizes:
        raise NotShown(f"{name}: no best rate off the edge of the rates that were tried; search on, or widen the grid")
    if len(sizes) >= LEAST:
        lr, exponent = bootstrap(grid, lambda g: np.array(_line(g, init, size)))
        return Prediction(name, field, size, lr, exponent, sizes, None)
    source, exponent = _exponent(runs, field, init, outputs)
    here = bootstrap(grid, lambda g: best_lrs(g, init)[np.isin(g.widths, sizes)])[0]
    step = np.log(size / sizes[0])
    value = here.value + exponent.value * step
    moves = sorted(step * (end - exponent.value) for end in (exponent.low, exponent.high))
    low, high = value - np.hypot(here.value - here.low, moves[0]), value + np.hypot(here.high - here.value, moves[1])
    return Prediction(name, field, size, Estimate(value, low, high), exponent, sizes, source)


def _line(grid: Grid, init: str, size: float) -> tuple[float, float]:
    """Log of the rate that is carried over to the size, and the exponent along which."""
    lrs = best_lrs(grid, init)
    return carried(lrs, grid.widths, size, FIT), slope_of(lrs, grid.widths)


def _exponent(runs: pd.DataFrame, field: str, init: str, outputs: Path) -> tuple[str, Estimate]:
    """The project's experiment that moves this size on this task, and the exponent there under this init's family."""
    task = runs["task.name"].iloc[0]
    name = RECORDS.get((field, task))
    option = next(option for option, of in OPTIONS.items() if of == field)
    few = f"--{option}: these runs have a best rate off the edge at one {field} only"
    ask = f"train the same at {LEAST} or more of {field} to have one of your own"
    if name is None:
        raise NotShown(f"{few}, and no record says how the best rate of {task} moves; {ask}")
    record = records.read(outputs if records.record_path(outputs, name).exists() else OWN_RECORDS, name)
    side, rule, optimizer = FAMILY.get(init), _scale(runs), runs["optimizer.name"].iloc[0]
    known = side and runs["adapter.name"].iloc[0] in ADAPTERS and optimizer == record["optimizer.name"].iloc[0]
    for sweep in sweeps(without_baseline(record)) if known else []:
        for other in sweep.grid.inits:
            if FAMILY.get(other) == side and (field != "adapter.rank" or sweep.what == rule):
                return name, bootstrap(
                    sweep.grid, lambda g, other=other: np.array([slope_of(best_lrs(g, other), g.widths)])
                )[0]
    way = f"adapter={runs['adapter.name'].iloc[0]} init={init} optimizer={optimizer}"
    raise NotShown(f"{few}, and no record says how the best rate of {way} moves; {ask}")


def _scale(runs: pd.DataFrame) -> str:
    """How the product is scaled with the rank, as `transfer.sweeps` says it."""
    follows = (runs["adapter.alpha"] == "rank").all() if "adapter.alpha" in runs else False
    power = (0.5 if follows else -0.5) if runs["adapter.name"].iloc[0] == "rslora" else (0.0 if follows else -1.0)
    return f"rank, s = r^{power:g}" if power else "rank, s = 1"


def told(found: Prediction) -> str:
    """One sentence."""
    lr = found.lr
    value, low, high = (f"{x:.2g}" for x in np.exp([lr.value, lr.low, lr.high]))
    span = f" [{low}, {high}]" if np.isfinite(lr.low) else f" (no interval: fewer than {MIN_SEEDS} seeds)"
    sizes = f"{found.field}={listed(found.sizes)}"
    whose = f"fitted to {sizes}" if found.source is None else f"from {sizes}, with the exponent of {found.source}"
    along = power(found.exponent, SIZES[found.field])
    sentence = f"{found.name}, {found.field}={found.size}: lr {value}{span}, along {along}, {whose}"
    if found.far > FAR:
        beyond = f"{number(found.far)} times beyond {'them' if len(found.sizes) > 1 else 'it'}"
        sentence += f"; {beyond}, of which the interval knows nothing: check it with a few runs"
    return sentence

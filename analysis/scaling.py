"""Exponents in the width and bootstrap intervals over seeds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.grid import Grid
from analysis.records import EARLY

RESAMPLES = 1000
LEVEL = 0.95
MIN_WIDTHS, MIN_SEEDS = 3, 3  # fewer give no exponent, or no interval
FEATURES = ("feature/Z_A", "feature/Z_B", "feature/delta_1", "feature/delta_2", "feature/delta_3")


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95% percentile interval over resampled seeds; nan where the data do not give it."""

    value: float
    low: float
    high: float


def exponent(widths: np.ndarray, logs: np.ndarray) -> float:
    """Least-squares slope of log values against log width, over the widths that have a value; nan below MIN_WIDTHS."""
    known = np.isfinite(logs)
    if known.sum() < MIN_WIDTHS:
        return np.nan
    return float(np.polyfit(np.log(widths[known]), logs[known], 1)[0])


def bootstrap(grid: Grid, statistic: Callable[[Grid], np.ndarray]) -> list[Estimate]:
    """Each entry of `statistic(grid)` with its interval: seeds are resampled with replacement, 1000 times, seed fixed.

    All inits and widths of a seed are drawn together, so comparisons stay paired. With few seeds a percentile bootstrap
    is somewhat narrow (by about √(1 - 1/S)); below MIN_SEEDS there is no interval.
    """
    values = np.atleast_1d(statistic(grid))
    seeds = len(grid.seeds)
    if seeds < MIN_SEEDS:
        return [Estimate(value, np.nan, np.nan) for value in values]
    rng = np.random.default_rng(0)
    samples = np.array(
        [np.atleast_1d(statistic(grid.resample(rng.integers(0, seeds, seeds)))) for _ in range(RESAMPLES)]
    )
    return [Estimate(float(value), *_interval(sample)) for value, sample in zip(values, samples.T, strict=True)]


def _interval(sample: np.ndarray) -> tuple[float, float]:
    """Percentile interval of one resampled statistic; nan where most resamples do not give it."""
    known = sample[np.isfinite(sample)]
    if len(known) <= len(sample) / 2:
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def best_lrs(grid: Grid, init: str) -> np.ndarray:
    """(W,) log of the best learning rate at every width; nan where it lies at the edge of the grid."""
    bests = [grid.best(init, width) for width in grid.widths]
    return np.array([np.nan if best.edge else np.log(best.lr) for best in bests])


def sizes(grid: Grid, init: str, column: str) -> np.ndarray:
    """(W,) log size of a feature at the best learning rate of every width; nan where that is at the edge."""
    lrs = np.exp(best_lrs(grid, init))
    return np.array([grid.value(column, init, width, lr) for width, lr in zip(grid.widths, lrs, strict=True)])


def sizes_along(grid: Grid, init: str, column: str, power: float) -> np.ndarray:
    """(W,) log size along lr = c·n^power, with c such that the rule passes through the mean of the best learning rates.

    The theory's exponents assume such a rule; at the tuned rates, their noise and drift enter too.
    """
    logs = best_lrs(grid, init)
    offset = np.nanmean(logs - power * np.log(grid.widths)) if np.isfinite(logs).any() else np.nan
    lrs = np.exp(offset + power * np.log(grid.widths))
    return np.array([grid.value(column, init, width, lr) for width, lr in zip(grid.widths, lrs, strict=True)])


def early_and_final(frame: pd.DataFrame) -> pd.DataFrame:
    """Per run, indexed by run_id: features a few steps in (`name`) and at the end (`final/name`), and both ratios δ2/δ1.

    "A few steps in" is the first logged step from EARLY on; increments at the end are those of the last update.
    """
    frame = frame.sort_values("step")
    early = frame[frame["step"] >= EARLY].groupby("run_id").first()
    final = frame.groupby("run_id")[list(FEATURES)].last()  # the last value that was measured
    columns = early[list(FEATURES)].join(final.add_prefix("final/"))
    columns["delta_2/delta_1"] = columns["feature/delta_2"] / columns["feature/delta_1"]
    # A diverged run has no feature at a learning rate one would use.
    return columns[frame.groupby("run_id")["status"].first().reindex(columns.index) == "finished"]

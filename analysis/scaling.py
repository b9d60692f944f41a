"""Exponents in the width and bootstrap intervals over seeds."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import factorial
from scipy.stats import norm, t

from analysis.grid import Grid, vertex
from analysis.records import BOTH_MOVED, EARLY
from analysis.theory import QUANTITIES, RATIO

RESAMPLES = 2000
LEVEL = 0.95
MIN_WIDTHS = 3  # fewer give no exponent
MIN_SEEDS = 5  # fewer give no interval: of 3 seeds a bootstrap interval covers 74%, of 4 87%
FEATURES = QUANTITIES[1:]  # all but the learning rate
START = "start/eval/loss"


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95% bootstrap interval over seeds; nan where the data do not give it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PerSeed:
    """One value a seed, for `bootstrap`."""

    values: np.ndarray

    @property
    def seeds(self) -> np.ndarray:
        return np.arange(len(self.values))

    def resample(self, seeds: np.ndarray) -> "PerSeed":
        return PerSeed(self.values[seeds])


def exponent(widths: np.ndarray, logs: np.ndarray) -> float:
    """Least-squares slope of log values against log width, over the widths that have a value; nan below MIN_WIDTHS."""
    known = np.isfinite(logs)
    if known.sum() < MIN_WIDTHS:
        return np.nan
    return float(np.polyfit(np.log(widths[known]), logs[known], 1)[0])


def bootstrap(grid: Grid | PerSeed, statistic: Callable[[Any], np.ndarray]) -> list[Estimate]:
    """Each entry of `statistic(grid)` with its bootstrap interval over seeds.

    All inits and widths of a seed are drawn together, so comparisons stay paired. Below MIN_SEEDS there is no interval.
    """
    values = np.atleast_1d(statistic(grid))
    if len(grid.seeds) < MIN_SEEDS:
        return [Estimate(float(value), np.nan, np.nan) for value in values]
    draws, weights = _resamples(len(grid.seeds))
    samples = np.array([np.atleast_1d(statistic(grid.resample(draw))) for draw in draws])
    tail = _tail(len(grid.seeds))
    return [
        Estimate(float(value), *_interval(sample, weights, tail))
        for value, sample in zip(values, samples.T, strict=True)
    ]


def _resamples(seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap samples (R, S) of seed positions and their probabilities (R,).

    S seeds have only C(2S - 1, S) distinct samples (126 for 5): where these are few, all of them with their exact
    probabilities, S! / (∏ mᵢ!) / S^S for multiplicities mᵢ; otherwise RESAMPLES random ones.
    """
    if math.comb(2 * seeds - 1, seeds) > RESAMPLES:
        return np.random.default_rng(0).integers(0, seeds, (RESAMPLES, seeds)), np.full(RESAMPLES, 1 / RESAMPLES)
    draws = np.array(list(itertools.combinations_with_replacement(range(seeds), seeds)))
    multiplicities = np.array([np.bincount(draw, minlength=seeds) for draw in draws])
    return draws, math.factorial(seeds) / factorial(multiplicities).prod(axis=1) / float(seeds) ** seeds


def _tail(seeds: int) -> float:
    """Probability left out on each side, Φ(-t·√(S/(S-1))) with Student's t of S - 1 degrees of freedom.

    The plain 2.5% would make intervals too narrow by √((S-1)/S) and take the tails for normal: with 5 seeds they would
    cover 82%. This expanded percentile interval (Hesterberg 2015) corrects both to first order.
    """
    return float(norm.cdf(t.ppf((1 - LEVEL) / 2, seeds - 1) * math.sqrt(seeds / (seeds - 1))))


def _interval(sample: np.ndarray, weights: np.ndarray, tail: float) -> tuple[float, float]:
    """Weighted percentile interval of one statistic; nan where too many resamples do not give it."""
    known = np.isfinite(sample)
    if weights[known].sum() < LEVEL:
        return np.nan, np.nan
    low, high = np.quantile(sample[known], [tail, 1 - tail], weights=weights[known], method="inverted_cdf")
    return float(low), float(high)


def best_lrs(grid: Grid, init: str) -> np.ndarray:
    """(W,) log of the best learning rate at every width; nan where it lies at the edge of the grid."""
    bests = [grid.best(init, width) for width in grid.widths]
    return np.array([np.nan if best.edge else np.log(best.lr) for best in bests])


def best_ratio(grid: Grid, init: str) -> float:
    """Log of the best ratio of learning rates, of a grid along `optimizer.lr_ratio`: each ratio at its own best rate of the grid,
    then as the best rate itself is found. nan where the best ratio is the grid's lowest or highest."""
    losses = np.array([grid.best(init, ratio).log_loss for ratio in grid.widths])
    losses = np.where(np.isnan(losses), np.inf, losses)
    i = int(np.argmin(losses))
    if not 0 < i < len(losses) - 1:
        return np.nan
    around = slice(i - 1, i + 2)
    return float(np.log(vertex(np.log(grid.widths[around]), losses[around], fallback=np.log(grid.widths[i]))))


def rank_grids(frame: pd.DataFrame) -> dict[float, Grid]:
    """Exponent of s in r -> the sweep with the rank in the place of the width."""
    power = pd.Series(-0.5, frame.index).where(frame["adapter.name"] == "rslora", -1.0)
    power = power.mask((frame["adapter.name"] == "lora") & (frame["adapter.alpha"] == frame["adapter.rank"]), 0.0)
    powers = sorted(power.unique(), reverse=True)
    return {value: Grid.along(frame[power == value], "adapter.rank") for value in powers}


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


def features(frame: pd.DataFrame) -> pd.DataFrame:
    """Per finished run, indexed by run_id: features at step 10 (`feature/…`), at step 2 (`start/feature/…`) and at the
    end (`final/feature/…`), and δ2/δ1 at step 10.

    Where a step was not logged, the next logged one stands for it; increments at the end are those of the last update.
    A diverged run has no feature at a learning rate that one would use. `start/eval/loss` is the held-out loss before
    training, where there is one.
    """
    frame = frame[frame["status"] == "finished"].sort_values("step")

    def first_from(step: int) -> pd.DataFrame:
        return frame[frame["step"] >= step].groupby("run_id")[list(FEATURES)].first()

    columns = first_from(EARLY).join(first_from(BOTH_MOVED).add_prefix("start/"))
    columns = columns.join(frame.groupby("run_id")[list(FEATURES)].last().add_prefix("final/"))
    if "eval/loss" in frame:
        columns[START] = frame[frame["step"] == 0].set_index("run_id")["eval/loss"]
    columns[RATIO] = columns["feature/delta_2"] / columns["feature/delta_1"]
    return columns

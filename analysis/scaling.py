"""Exponents in the width and bootstrap intervals over seeds."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import factorial, ndtr, stdtrit

from analysis.between import vertex
from analysis.grid import Grid
from analysis.tables.records import BOTH_MOVED, EARLY
from analysis.theory import QUANTITIES, RATIO
from runner.core.optimum import logs

RESAMPLES = 2000
LEVEL = 0.95
MIN_WIDTHS = 3  # fewer give no exponent
MIN_SEEDS = 5  # fewer give no interval: of 3 seeds a bootstrap interval covers 74%, of 4 87%
FEATURES = QUANTITIES[1:]  # all but the learning rate
START = "start/eval/loss"
BEGIN = "start/train/loss"
LEARNS = 0.9  # of the loss at the start: the best rate of runs that stay above it says nothing of those that learn


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95% bootstrap interval over seeds; nan where the data do not give it."""

    value: float
    low: float
    high: float

    def exp(self) -> "Estimate":
        """Of the number whose log this is of."""
        return Estimate(*(float(np.exp(x)) for x in (self.value, self.low, self.high)))


@dataclass(frozen=True)
class PerSeed:
    """One value a seed, for `bootstrap`."""

    values: np.ndarray

    @property
    def seeds(self) -> np.ndarray:
        return np.arange(len(self.values))

    def resamples(self, draws: np.ndarray) -> list["PerSeed"]:
        return [PerSeed(self.values[draw]) for draw in draws]


def exponent(widths: np.ndarray, values: np.ndarray) -> float:
    """Least-squares slope of log values against log width, over the widths that have a value; nan below MIN_WIDTHS."""
    known = np.isfinite(values)
    if known.sum() < MIN_WIDTHS:
        return np.nan
    logs, values = np.log(widths[known]), values[known]
    logs = logs - logs.mean()
    return float(logs @ (values - values.mean()) / (logs @ logs))


def bootstrap(grid: Grid | PerSeed, statistic: Callable[[Any], np.ndarray]) -> list[Estimate]:
    """Each entry of `statistic(grid)` with its bootstrap interval over seeds.

    All inits and widths of a seed are drawn together, so comparisons stay paired. Below MIN_SEEDS there is no interval.
    """
    values = np.atleast_1d(statistic(grid))
    values = np.where(np.isfinite(values), values, np.nan)
    if len(grid.seeds) < MIN_SEEDS:
        return [Estimate(float(value), np.nan, np.nan) for value in values]
    draws, weights = _resamples(len(grid.seeds))
    samples = np.array([np.atleast_1d(statistic(sample)) for sample in grid.resamples(draws)])
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
    return float(ndtr(stdtrit(seeds - 1, (1 - LEVEL) / 2) * math.sqrt(seeds / (seeds - 1))))


def _interval(sample: np.ndarray, weights: np.ndarray, tail: float) -> tuple[float, float]:
    """Weighted percentile interval of one statistic. Resamples that do not give it count as lying beyond either end, and make
    the interval nan where that is more than lies beyond it anyway."""
    known = np.isfinite(sample)
    missing = 1 - weights[known].sum() / weights.sum()
    if missing > tail:
        return np.nan, np.nan
    shares = [(tail - missing) / (1 - missing), (1 - tail) / (1 - missing)]
    low, high = np.quantile(sample[known], shares, weights=weights[known], method="inverted_cdf")
    return float(low), float(high)


def best_lrs(grid: Grid, init: str) -> np.ndarray:
    """(W,) log of the best learning rate at every width; nan where it lies at the edge of the grid."""
    bests = [grid.best(init, width) for width in grid.widths]
    return np.array([np.nan if best.edge else np.log(best.lr) for best in bests])


def learning_lrs(grid: Grid, init: str) -> np.ndarray:
    """`best_lrs`, nan also where not even the best rate takes the loss to LEARNS times that at the start (column BEGIN)."""
    losses = np.array([grid.best(init, width).log_loss for width in grid.widths])
    begin = np.ma.masked_invalid(logs(grid.columns[BEGIN][grid.inits.index(init)]))
    learned = losses <= np.log(LEARNS) + begin.mean(axis=(1, 2)).filled(np.nan)  # the mean over the runs that there are
    return np.where(learned, best_lrs(grid, init), np.nan)


def best_ratio(grid: Grid, init: str) -> float:
    """Log of the best ratio of learning rates, of a grid along `optimizer.lr_ratio`: each ratio at its own best rate of the grid,
    then as the best rate itself is found.

    Where it is the grid's lowest or highest, the true one lies there or beyond: it is a bound, on which a percentile may stand.
    nan where the best rate of the best ratio, or of a neighbour, against which it is compared, lies at the edge.
    """
    bests = [grid.best(init, ratio) for ratio in grid.widths]
    losses = np.array([np.inf if np.isnan(best.log_loss) else best.log_loss for best in bests])
    i = int(np.argmin(losses))
    around = slice(max(0, i - 1), i + 2)
    if not np.isfinite(losses[i]) or any(best.edge and np.isfinite(best.log_loss) for best in bests[around]):
        return np.nan
    if i in (0, len(losses) - 1):
        return float(np.log(grid.widths[i]))
    return float(np.log(vertex(np.log(grid.widths[around]), losses[around])))


def spread_gap(grid: Grid, inits: Sequence[str]) -> Estimate:
    """std over inits of log best rate, minus that of log best loss, of what the inits truly differ by, at the first width.

    Noise spreads even alike inits, and a resample holds it twice, its own and the sample's. With the noise's variance v, that of
    the resamples around the sample (S / (S - 1) times it), the spreads are (V - v)^(1/2) in the sample and (V - 2v)^(1/2) in a
    resample, 0 where that is negative. Rates at the grid's edge stand as they are.
    """

    def values(g: Grid) -> np.ndarray:  # (2, inits)
        bests = [g.best(init, g.widths[0]) for init in inits]
        both = np.array([[np.log(best.lr) for best in bests], [best.log_loss for best in bests]])
        return both - both.mean(1, keepdims=True)

    def gap(variances: np.ndarray) -> np.ndarray:
        lr, loss = np.sqrt(np.maximum(variances, 0))
        return lr - loss

    sample, seeds = values(grid), len(grid.seeds)
    if seeds < MIN_SEEDS:
        return Estimate(float(gap((sample**2).mean(1))), np.nan, np.nan)
    draws, weights = _resamples(seeds)
    resamples = np.array([values(sample) for sample in grid.resamples(draws)])  # (R, 2, inits)
    noise = seeds / (seeds - 1) * np.einsum("r,rij->i", weights, (resamples - sample) ** 2) / len(inits)
    gaps = gap(((resamples**2).mean(2) - 2 * noise).T)
    return Estimate(float(gap((sample**2).mean(1) - noise)), *_interval(gaps, weights, _tail(seeds)))


def best_ratios(grid: Grid, init: str, other: str | None = None) -> Estimate:
    """Log of the best ratio of `init`, or of that over the best of `other`; nan where one is the grid's lowest or highest."""
    inits = [init] if other is None else [init, other]

    def values(g: Grid) -> list[float]:
        return [best_ratio(g, name) for name in inits]

    if any(value in np.log(grid.widths[[0, -1]]) for value in values(grid)):
        return Estimate(np.nan, np.nan, np.nan)
    return bootstrap(grid, lambda g: np.array([-np.diff(values(g))[0] if other else values(g)[0]]))[0]


def rank_grids(frame: pd.DataFrame) -> dict[float, Grid]:
    """Exponent of s in r -> the sweep with the rank in the place of the width.

    Where alpha follows the rank, the exponent is 1 larger than where it stays. A rank equal to an alpha that stays belongs to
    that sweep, and to one along which alpha follows only if this has further ranks.
    """
    adapter, alpha, rank = (frame[f"adapter.{name}"] for name in ("name", "alpha", "rank"))
    follows = alpha == rank
    stays = ~follows | (rank.groupby([adapter, alpha]).transform("nunique") > 1)
    follows &= ~stays | (rank.where(follows).groupby(adapter).transform("nunique") > 1)
    with_fixed = pd.Series(-1.0, frame.index).mask(adapter == "rslora", -0.5)
    parts = {
        power: frame[(stays & (with_fixed == power)) | (follows & (with_fixed + 1 == power))]
        for power in (0.5, 0.0, -0.5, -1.0)
    }
    begin = frame[frame["step"] == 0].set_index("run_id")[["train/loss"]].set_axis([BEGIN], axis=1)
    return {power: Grid.along(part, "adapter.rank", begin) for power, part in parts.items() if len(part)}


def sizes(grid: Grid, init: str, column: str) -> np.ndarray:
    """(W,) log size of a feature at the best learning rate of every width; nan where that is at the edge."""
    lrs = np.exp(best_lrs(grid, init))
    return np.array([grid.value(column, init, width, lr) for width, lr in zip(grid.widths, lrs, strict=True)])


def sizes_along(grid: Grid, init: str, column: str, power: float) -> np.ndarray:
    """(W,) log size along lr = c·n^power, with c such that the rule passes through the mean of the best learning rates.

    The theory's exponents assume such a rule; at the tuned rates, their noise and drift enter too.
    """
    best = best_lrs(grid, init)
    offset = np.nanmean(best - power * np.log(grid.widths)) if np.isfinite(best).any() else np.nan
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

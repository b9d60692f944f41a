"""Loss against learning rate with a known optimum, and the noise of seeds as the committed records have it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

import analysis
from analysis.grid import is_setting, log_losses
from runner.sweeps.rates import RateSearch

SEEDS = range(5)
CURVATURE = 0.005  # of log loss, a doubling of the rate squared, as language models have it
PLATEAU = 8 * CURVATURE  # how far training lowers the log loss
BREAKDOWN = 5.0  # doublings above the best rate, at the latest


@cache
def grids(experiment: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(log2 rates (L,), log losses (L, S)) of each setting of a committed record."""
    found = []
    for _, runs in analysis.runs(f"outputs/records/{experiment}.parquet").groupby("task.name"):
        settings = [name for name in runs if is_setting(name) and runs[name].nunique(dropna=False) > 1]
        runs["log loss"] = log_losses(runs)
        for _, part in runs.groupby(["init.name", "task.width", *settings], dropna=False):
            table = part.pivot(index="optimizer.lr", columns="seed", values="log loss").dropna()
            found.append((np.log2(table.index.to_numpy(float)), table.to_numpy()))
    return found


@cache
def noises(experiment: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(doublings from the best, residuals (L, S) in units of the curvature) around the best rate of each of its grids."""
    found = []
    for x, losses in grids(experiment):
        means = losses.mean(1)
        best = int(np.argmin(means))
        if best in (0, len(x) - 1) or not np.isfinite(means[best - 1 : best + 2]).all():
            continue
        near = (np.abs(x - x[best]) < 2.5) & np.isfinite(means)
        curvature = (means[best - 1] + means[best + 1] - 2 * means[best]) / 2
        widened = np.sqrt(losses.shape[1] / (losses.shape[1] - 1))  # residuals of a mean are smaller than of the truth
        found.append((x[near] - x[best], widened * (losses[near] - means[near, None]) / curvature))
    return found


@dataclass
class Surface:
    """Expected log loss at x = log2 of the rate, lowest at `best`; breakdown above `cliff`; what a run of a seed gives."""

    best: float
    cliff: float
    expected: Callable[[float], float]
    run: Callable[[float, int], float]

    def regret(self, x: float) -> float:
        return self.expected(x) - self.expected(self.best)


def valley(u: np.ndarray) -> np.ndarray:
    """A parabola that ends in a plateau below, where training does ever less, and in a higher one above, where it does harm."""
    return np.where(u < -2, 8 - 4 * 2.0 ** (u + 2), np.where(u > 2, 12 - 8 * np.exp(2 - u), u * u))


SHAPES = {
    "valley": valley,
    "flat": lambda u: 8 * (1 - np.exp(-(u**4) / 32)),
    "steeper above": lambda u: np.minimum(4 * (np.exp(0.7 * u) - 0.7 * u - 1), 9),
    "steeper below": lambda u: np.minimum(4 * (np.exp(-0.7 * u) + 0.7 * u - 1), 9),
    "down to breakdown": lambda u: np.abs(u),
}
# shape, distance of the cliff above the best, distance of the asked range from the best, experiment whose noise it has
CASES = {
    "valley": ("valley", (BREAKDOWN, BREAKDOWN), None, "lm_lr_sensitivity"),
    "noise of a toy": ("valley", (BREAKDOWN, BREAKDOWN), None, "lr_vs_width"),
    "cliff": ("valley", (1.0, 2.0), None, "lm_lr_sensitivity"),
    "cliff beside the best": ("valley", (0.1, 0.6), None, "lm_lr_sensitivity"),
    "best at the cliff": ("down to breakdown", (0.0, 0.0), None, "lm_lr_sensitivity"),
    "flat": ("flat", (BREAKDOWN, BREAKDOWN), None, "lm_lr_sensitivity"),
    "steeper above": ("steeper above", (BREAKDOWN, BREAKDOWN), None, "lm_lr_sensitivity"),
    "steeper below": ("steeper below", (BREAKDOWN, BREAKDOWN), None, "lm_lr_sensitivity"),
    "best above the range": ("valley", (BREAKDOWN, BREAKDOWN), (-9, -1), "lm_lr_sensitivity"),
    "best below the range": ("valley", (BREAKDOWN, BREAKDOWN), (1, 9), "lm_lr_sensitivity"),
}


def simulated(case: str, rng: np.random.Generator) -> tuple[Surface, tuple[float, float]]:
    """A surface, its optimum anywhere between the lattice's rates, and the range to search, as log2."""
    shape, cliffs, beside, experiment = CASES[case]
    best = rng.uniform(-12, -4)
    cliff = best + rng.uniform(*cliffs) + 1e-9
    asked = (-20.0, 0.0) if beside is None else (best + beside[0], best + beside[1])
    u, residuals = (choices := noises(experiment))[rng.integers(len(choices))]
    columns, signs, shift = (
        rng.integers(0, residuals.shape[1], len(SEEDS)),
        rng.choice([-1, 1], len(SEEDS)),
        rng.uniform(),
    )
    own: dict[tuple[float, int], float] = {}

    def expected(x: float) -> float:
        return CURVATURE * float(SHAPES[shape](np.array(x - best))) if x <= cliff else np.inf

    def run(x: float, seed: int) -> float:
        if x > cliff:
            return np.inf
        at = x - best - shift
        between = np.interp(at, u, residuals[:, columns[seed]])
        if (x, seed) not in own:  # a mean of two neighbours has less noise than either: what is missing
            weight = at - np.floor(at)
            apart = np.diff(residuals, axis=0)[np.clip(np.searchsorted(u, at), 1, len(u) - 1) - 1]
            own[x, seed] = rng.normal() * apart.std() / 2**0.5 * (1 - weight**2 - (1 - weight) ** 2) ** 0.5
        share = min(1.0, 2.0 ** (x - best + 2))  # where nothing is learned there is no noise
        return expected(x) + CURVATURE * share * signs[seed] * (between + own[x, seed])

    return Surface(best, cliff, expected, run), asked


def searched(search: RateSearch, run: Callable[[float, int], float], start: float = np.inf, most: int = 100) -> dict:
    """What a search of one axis has tried when it ends, by place and seed."""
    tried: dict = {}
    for _ in range(most):
        if not (wanted := search.wanted(tried, start)):
            return tried
        for point, count in wanted.items():
            losses = tried.setdefault(point, {})
            losses |= {seed: run(point[0] / 2, seed) for seed in search.seeds[:count] if seed not in losses}
    raise AssertionError(f"no end after {most} rounds")


def runs_of(tried: dict) -> int:
    return sum(map(len, tried.values()))


RECORDS = ("lm_lr_sensitivity", "lr_vs_width", "width_exponents", "init_zoo", "variants", "rank_transfer", "lora_plus")


def recorded() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The grids of the committed records whose best lies inside."""
    for experiment in RECORDS:
        for x, losses in grids(experiment):
            if len(x) > 4 and 0 < np.argmin(losses.mean(1)) < len(x) - 1:
                yield x, losses

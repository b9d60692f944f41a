"""The lowest learning rate at which a run breaks down: it diverges or, where losses are held out, ends above its start."""

import numpy as np

from analysis.between import ROUNDING
from analysis.grid import Grid
from analysis.scaling import START
from runner.core.optimum import logs


def breakdown_ratio(grid: Grid, a: str, b: str) -> float:
    """Mean over widths and seeds of log(lowest lr at which a breaks down / at which b does).

    Where one of the two is a bound, the ratio is the least it can be; cells in which both are, on one side, say nothing, and
    neither do those in which one is unknown. nan if these are most.
    """
    (lowest_a, side_a), (lowest_b, side_b) = lowest_breaking(grid, a), lowest_breaking(grid, b)
    ratios = lowest_a - lowest_b
    return _mean_of_most(np.where((side_a != side_b) | (side_a == 0), ratios, np.nan))


def _mean_of_most(values: np.ndarray) -> float:
    """Of those that are known; nan if these are not most."""
    known = np.isfinite(values)
    return float(values[known].mean()) if known.mean() > 0.5 else np.nan


def breaking_ratio(grid: Grid, a: str, b: str) -> float:
    """The same of `breaking_points`, for rates that were searched, of which each init and seed has its own."""
    return _mean_of_most(breaking_points(grid, a) - breaking_points(grid, b))


def breaking_points(grid: Grid, init: str) -> np.ndarray:
    """(W, S) log of the rate at which a run begins to break down, nan where only bounds of it are known."""
    low, high = breaking_bounds(grid, init)
    return np.where(low == high, low, np.nan)


def breaking_bounds(grid: Grid, init: str) -> tuple[np.ndarray, np.ndarray]:
    """(W, S) logs of the rates between which a run begins to break down, one of which may be infinite: the lowest that did and
    the next lower one that was tried. Both are their middle, in the log, where these are a factor of 2 apart, or less.
    """
    broken, tried = _broken(grid, init)
    low, high = np.full(broken.shape[::2], -np.inf), np.full(broken.shape[::2], np.inf)
    for width, seed in np.ndindex(*low.shape):
        lrs = np.log(grid.lrs[tried[width, :, seed]])
        down = broken[width, tried[width, :, seed], seed]
        holds = int(down.argmax()) if down.any() else len(down)  # how many rates, below the first that does not
        if holds:
            low[width, seed] = lrs[holds - 1]
        if holds < len(lrs):
            high[width, seed] = lrs[holds]
    near = high - low < np.log(2) + ROUNDING
    with np.errstate(invalid="ignore"):
        middle = (low + high) / 2
    return np.where(near, middle, low), np.where(near, middle, high)


def _broken(grid: Grid, init: str) -> tuple[np.ndarray, np.ndarray]:
    """(W, L, S) whether a run breaks down, and whether that is known."""
    i = grid.inits.index(init)
    losses = grid.log_loss[i]
    broken, tried = np.isposinf(losses), ~np.isnan(losses)
    if START in grid.columns:
        start = logs(grid.columns[START][i])
        broken, tried = broken | (losses > start), tried & (broken | ~np.isnan(start))
    return broken, tried


def lowest_breaking(grid: Grid, init: str) -> tuple[np.ndarray, np.ndarray]:
    """(W, S) log of the lowest rate at which a run breaks down, and of what it is a bound.

    1: no run breaks down, and the rate after the last one tried stands for it; -1: the first one tried does already; 0: neither.
    nan where it is not known: nothing was tried, a run before it is missing, or there is no next rate.
    """
    lrs = np.log(grid.lrs)
    broken, tried = _broken(grid, init)
    first, after = tried.argmax(1), len(lrs) - tried[:, ::-1].argmax(1)
    place = np.where(broken.any(1), broken.argmax(1), after)
    between = np.arange(len(lrs))[None, :, None]
    missing = ~tried & (first[:, None] < between) & (between < place[:, None])
    rates = np.append(lrs, 2 * lrs[-1] - lrs[-2] if len(lrs) > 1 else np.nan)
    lowest = np.where(missing.any(1) | ~tried.any(1), np.nan, rates[place])
    return lowest, np.where(place == after, 1, np.where(place == first, -1, 0))

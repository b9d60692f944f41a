"""Where a curve is lowest, between the points at which it is known: as few seeds would find it, on average.

The lowest point of one mean jumps between rates that are as good as each other, and so do the resamples of a bootstrap. The
mean over all groups of SIZE seeds of where the mean of a group is lowest does not (Bühlmann, Yu 2002, Analyzing bagging, who
call it subagging): in simulation it spreads by a quarter less (docs/claims.md).
"""

from functools import cache
from itertools import combinations_with_replacement
from math import comb

import numpy as np

SIZE = 3  # seeds of a group: of one, the mean of the seeds' own best rates, which is another quantity; of all, the mean curve's


@cache
def groups(seeds: int, size: int) -> np.ndarray:
    """(G, S) how often each of S seeds is in each group of so many, drawn with repetition."""
    return np.array(
        [np.bincount(group, minlength=seeds) for group in combinations_with_replacement(range(seeds), size)]
    )


def shares(times: np.ndarray, size: int) -> np.ndarray:
    """(G,) how many of all groups of `size` are each of `groups`, in a sample that holds each seed so many times (S,)."""
    ways = np.array([[comb(n, k) for k in range(size + 1)] for n in range(max(times) + 1)])
    of_groups = ways[times, groups(len(times), size)].prod(1)
    return of_groups / of_groups.sum()


def best_of_groups(x: np.ndarray, losses: np.ndarray, size: int) -> np.ndarray:
    """(G,) where the mean losses of each of `groups` are lowest, of losses (L, S) at x (L,). A point that a seed lacks is none,
    and one at which a seed diverged, +inf, is lost for all groups, as it is for the mean of all seeds."""
    there = ~np.isnan(losses).any(1)
    of_seeds = groups(losses.shape[1], size) / size
    if not there.any():
        return np.full(len(of_seeds), np.nan)
    diverged = np.isinf(losses[there]).any(1)
    means = of_seeds @ np.where(diverged[:, None], 0, losses[there]).T
    return vertices(x[there], np.where(diverged, np.inf, means))


def vertices(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(...,) abscissa of the vertex of the parabola through the lowest of y (..., L) at x (L,) and its two neighbours.

    Only three points enter, because the loss is not a parabola further out: towards large rates it ends in a cliff. The lowest
    point itself where it is at an end, a neighbour is not finite, or all three are equal; nan where none is finite.
    """
    lowest = np.argmin(y, -1)
    known = np.isfinite(y.min(-1))
    if len(x) < 3:
        return np.where(known, x[lowest], np.nan)
    middle = np.clip(lowest, 1, len(x) - 2)
    below, at, above = (np.take_along_axis(y, (middle + i)[..., None], -1)[..., 0] for i in (-1, 0, 1))
    before, after = x[middle] - x[middle - 1], x[middle + 1] - x[middle]
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (at - below) / before, (above - at) / after
        shift = -(left * after + right * before) / (2 * (right - left))
    inside = (lowest == middle) & (right > left) & np.isfinite(below) & np.isfinite(above)
    return np.where(known, x[lowest] + np.where(inside, shift, 0.0), np.nan)

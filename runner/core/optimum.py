"""The best point of a curve that is known with noise: log loss against log2 of the learning rate, from several seeds.

A curve is a mapping x -> (seed -> log loss), +inf where a run broke down. Only points that have the same seeds compete for the
best, for a mean over some seeds does not compare with one over others: the most seeds that at least three points have.
Differences are taken seed by seed.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import stdtrit  # Student's quantiles; scipy.stats has them, too, and takes two seconds to import

CONFIDENCE = 0.95
LEAST = float(np.finfo(np.float32).tiny)  # 1e-38, the least normal number of the precision that runs are trained in
# Of a parabola, to either side, or as far as the next point: the loss is none further out, and ends in a cliff at large rates.
WINDOW = 1.0
NEAR = 2.0  # noise is that of points within, or of the nearest
LEAST_POINTS = 3  # that must have the seeds by which all are compared, where there are so many
ROUNDING = 1e-9  # two logs of one rate, along two ways of computing it, differ by less
RESOLUTION = 0.1  # half a width of an interval at the least: an asymmetric valley is off its parabola by about as much

Losses = Mapping[int, float]
Curve = Mapping[float, Losses]


@dataclass(frozen=True)
class Optimum:
    """`point`: the best of the complete points. `x`: where the parabola through those around it is lowest, or `point` itself.

    `low`, `high`: a 95% interval for the best x; infinite where no point on that side is worse beyond noise, nan of one seed.
    `good`: the outermost points of those around the best that are not worse beyond noise, nan of one seed.
    `edge`: no tried point lies further down, or further up. `cliff`: at the next point further up runs broke down.
    `log_loss`: mean over the seeds at `point`.
    """

    x: float
    low: float
    high: float
    point: float
    good: tuple[float, float]
    edge: bool
    cliff: bool
    log_loss: float


def logs(losses: np.ndarray) -> np.ndarray:
    """Of losses, where one of 0 stands as the least number above it."""
    return np.log(np.maximum(losses, LEAST))


def interval(values: Collection[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's, for the mean of these values; nan of fewer than two, or where one is not finite."""
    x = np.array(list(values), float)
    if len(x) < 2 or not np.isfinite(x).all():
        return np.nan, np.nan
    half = half_width(x.std(ddof=1), len(x), confidence)
    return float(x.mean() - half), float(x.mean() + half)


def half_width(deviation: float, count: int, confidence: float = CONFIDENCE) -> float:
    """Of Student's interval for the mean of so many values with this standard deviation."""
    return float(_quantile((1 + confidence) / 2, count - 1) * deviation / count**0.5)


def optimum(curve: Curve) -> Optimum | None:
    """None where no complete point has a loss of every seed.

    The interval holds the x at which the parabola through the complete points around the best has a slope that does not differ
    from 0 (Fieller's interval of its vertex: the slope at x is a mean over seeds, and Student's test of it inverted), within the
    nearest points to either side that are worse beyond noise or broke down.
    """
    seeds = shared_seeds(curve)
    curve = {x: {seed: losses[seed] for seed in losses.keys() & seeds} for x, losses in curve.items()}
    curve = {x: losses for x, losses in curve.items() if losses}
    complete = {x: mean(losses) for x, losses in curve.items() if losses.keys() >= seeds}
    best = min(complete, key=lambda x: (complete[x], x), default=None)
    if best is None or not np.isfinite(complete[best]):
        return None
    xs, sd, dof = sorted(curve), *noise(curve, best)
    place = first = last = xs.index(best)
    rivals = max(sum(0 < abs(x - best) <= NEAR + ROUNDING for x in xs), 1)
    limit = _quantile(1 - (1 - CONFIDENCE) / 2 / rivals, dof) * sd if dof else 0.0
    while first > 0 and not _is_worse(curve, xs[first - 1], best, limit):
        first -= 1
    while last < len(xs) - 1 and not _is_worse(curve, xs[last + 1], best, limit):
        last += 1
    low = xs[first - 1] if first > 0 else -np.inf
    high = xs[last + 1] if last < len(xs) - 1 else np.inf
    x, near = best, [x for x in _around(sorted(complete), best) if np.isfinite(complete[x])]
    if near[0] < best < near[-1]:
        # The vertex of the nearest points, as for a plain grid; its interval from all that are as good, which in a flat valley
        # are more than the nearest: of these alone noise can make a valley of its own.
        wide = [x for x in complete if xs[first] <= x <= xs[last] and np.isfinite(complete[x])]
        at, _, _ = _vertex(curve, best, near)
        _, *span = _vertex(curve, best, sorted({*near, *wide}))
        low, high = max(low, best + span[0] - RESOLUTION), min(high, best + span[1] + RESOLUTION)
        x = float(np.clip(best + at, max(low, near[0]), min(high, near[-1])))
    if not dof:
        low = high = np.nan
    return Optimum(
        x=x,
        low=low,
        high=high,
        point=best,
        good=(xs[first], xs[last]) if dof else (np.nan, np.nan),
        edge=place in (0, len(xs) - 1),
        cliff=place + 1 < len(xs) and not np.isfinite(mean(curve[xs[place + 1]])),
        log_loss=complete[best],
    )


def shared_seeds(curve: Curve) -> set[int]:
    """The most seeds that LEAST_POINTS points have in common; where all runs broke down, further seeds are not needed."""
    most = sorted((set(losses) for losses in curve.values() if min(losses.values()) < math.inf), key=len, reverse=True)
    broken = [losses for losses in curve.values() if min(losses.values()) == math.inf]
    needed = max(LEAST_POINTS - len(broken), 1)
    return set.intersection(*most[:needed]) if most else set().union(*broken)


def _around(xs: Sequence[float], best: float) -> list[float]:
    """Those within WINDOW, and the next one to either side."""
    place = xs.index(best)
    return [x for i, x in enumerate(xs) if abs(x - best) <= WINDOW + ROUNDING or abs(i - place) == 1]


def mean(losses: Losses) -> float:
    return average(losses.values())


def average(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Collection[float]) -> float:
    """Standard deviation, of at least two values; nan where one is infinite."""
    middle = average(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def difference(curve: Mapping, x: object, other: object) -> list[float]:
    """Of the log losses at two points, seed by seed, in the seeds that both have; +inf where a run broke down at `x`."""
    return [
        loss - curve[other][seed] if loss < math.inf else math.inf
        for seed, loss in curve[x].items()
        if seed in curve[other]
    ]


def noise(curve: Mapping, best: float | tuple[int, ...], near: float = NEAR) -> tuple[float, int]:
    """Standard deviation over seeds of the difference of a point from the best, and its degrees of freedom.

    Pooled over the points within `near`, or at the least distance where there are none: one with two seeds alone tells next to
    nothing. 0 of no degrees where no point has two.
    """
    apart = {_distance(x, best): [] for x in curve if x != best}
    for x in curve:
        if x != best and len(each := difference(curve, x, best)) > 1 and max(each) < math.inf:
            apart[_distance(x, best)].append(each)
    least = min((distance for distance, found in apart.items() if found), default=0.0)
    used = [each for distance, found in apart.items() if distance <= max(near, least) + ROUNDING for each in found]
    squares, dof = sum(deviation(each) ** 2 * (len(each) - 1) for each in used), sum(len(each) - 1 for each in used)
    return (squares / dof) ** 0.5 if dof else 0.0, dof


def _is_worse(curve: Curve, x: float, best: float, limit: float) -> bool:
    """Whether the mean of its differences from the best lies beyond this limit, which is of a single difference."""
    apart = difference(curve, x, best)
    return average(apart) > limit / len(apart) ** 0.5


def _distance(x: Any, other: Any) -> float:
    """Of two numbers, or the largest along the axes of two points."""
    if isinstance(x, tuple):
        return max(abs(a - b) for a, b in zip(x, other, strict=True))
    return abs(x - other)


@cache
def _quantile(probability: float, dof: int) -> float:
    """Of Student's distribution."""
    return float(stdtrit(dof, probability))


def _vertex(curve: Curve, best: float, points: Sequence[float]) -> tuple[float, float, float]:
    """Where the mean over seeds of the parabolas through the losses at these points is lowest, and Fieller's interval for it, all
    from `best`; 0 where there is no valley, and an infinite interval where the curvature does not differ from 0."""
    u = np.array(points) - best
    losses = np.array([[curve[x][seed] for seed in sorted(curve[best])] for x in points])  # (P, S)
    _, slope, curvature = np.linalg.pinv(np.stack([np.ones_like(u), u, u * u], 1)) @ losses  # (S,) each
    seeds, b, c = losses.shape[1], slope.mean(), curvature.mean()
    vertex = -b / (2 * c) if c > 0 else 0.0
    if seeds < 2 or c <= 0:
        return vertex, -np.inf, np.inf
    (bb, bc), (_, cc) = np.cov(slope, curvature) / seeds
    t2 = _quantile((1 + CONFIDENCE) / 2, seeds - 1) ** 2
    # (b + 2cu)² <= t²·(bb + 4u·bc + 4u²·cc), a quadratic inequality in u
    square, linear, constant = 4 * (c * c - t2 * cc), 4 * (b * c - t2 * bc), b * b - t2 * bb
    if square <= 0:
        return vertex, -np.inf, np.inf
    root = max(linear * linear - 4 * square * constant, 0.0) ** 0.5
    return vertex, (-linear - root) / (2 * square), (-linear + root) / (2 * square)

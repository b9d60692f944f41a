"""Which learning rates a search tries next, from the losses of those it has tried: decisions alone, no configuration, no store.

Rates lie on one lattice, the powers of √2, so that the runs of different searches coincide. A search starts with every factor of
8 in its range and two seeds, follows the best in factors of 2, gives all seeds to whatever may be the best and to its
neighbours, and adds the factors of √2 around it while the interval of the best rate is wider than asked. Where the best lies at
an end it goes on beyond. A rate at which all runs so far broke down gets no more of them.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from runner.core.optimum import Losses, Optimum, average, deviation, difference, mean, noise, optimum

COARSE, MEDIUM, FINE = 6, 2, 1  # steps, in powers of √2
FEW = 2  # seeds of a rate that is tried for the first time
LEAST_START = 3  # rates on an axis to start with, where its range has so many
NEAR = 6  # steps within which rates tell how large the noise is
CONTENDS = 2.0  # a rate contends for the best while it is worse by less than so many standard errors
LEAST_CHANGE = 1e-3  # of the loss, relative: a rate that changes it by less does nothing, and no lower one does
LOWEST, HIGHEST = -120, 40  # 9e-19 and a million: beyond, no rate is looked for

Point = tuple[int, ...]  # a place on the lattice: a power of √2 for each axis that is searched
Tried = Mapping[Point, Losses]


def rate(power: int) -> float:
    """√2 to this power."""
    return math.ldexp(math.sqrt(2) if power % 2 else 1.0, power // 2)


def powers(low: float, high: float) -> range:
    """Those of the lattice's rates from low to high."""
    rounding = 1e-9
    return range(math.ceil(2 * math.log2(low) - rounding), math.floor(2 * math.log2(high) + rounding) + 1)


class RateSearch:
    """The search of one setting. `ranges`: the lowest and the highest rate of each axis to start with; `seeds`, in the order in
    which they are used; `within`: the ratio of the ends of the best rate's interval at which it is narrow enough."""

    def __init__(self, ranges: Sequence[tuple[float, float]], seeds: Sequence[int], within: float):
        self.seeds, self.width = list(seeds), math.log2(within)
        self.start = list(itertools.product(*(_start(low, high) for low, high in ranges)))
        one = np.eye(len(ranges), dtype=int)
        self.steps = [*one, *-one]
        # Where one axis is a factor of the other, valleys of the loss run across both.
        self.across = [sign * (a - b) for a, b in itertools.combinations(one, 2) for sign in (1, -1)]

    def wanted(self, tried: Tried, start: float = math.inf) -> dict[Point, int]:
        """Points, and how many of the seeds each is to have; none once it has ended. `start`: log loss before training."""
        for wanted in self._rules(tried, start):
            if missing := {point: n for point, n in wanted.items() if len(tried.get(point, ())) < n}:
                return missing
        return {}

    def _rules(self, tried: Tried, start: float) -> Iterator[dict[Point, int]]:
        few, all_seeds = min(FEW, len(self.seeds)), len(self.seeds)
        yield dict.fromkeys(self.start, few)
        best = self.best(tried)
        if best is None:
            lowest = tuple(min(point[i] for point in tried) for i in range(len(self.start[0])))
            yield dict.fromkeys(_inside([tuple(_coarser(power, -1) for power in lowest)]), few)
            return
        idle = abs(mean(tried[best]) - start) < LEAST_CHANGE
        ends = [step for step in self.steps if all(np.dot(step, point) <= np.dot(step, best) for point in tried)]
        yield dict.fromkeys(_inside(_beyond(best, step) for step in ends if step.sum() > 0 or not idle), few)
        sides = _around(best, self.steps, MEDIUM)
        useless = idle and any(step.sum() < 0 for step in ends)  # at the lowest rate, which is the best
        if len(tried[best]) < all_seeds and not useless:
            yield dict.fromkeys(sides, few)
        yield dict.fromkeys(self._contenders(tried, best), all_seeds)
        if useless:
            return
        yield dict.fromkeys(_around(best, self.across, MEDIUM), few)
        yield dict.fromkeys(_hopeful(tried, sides), all_seeds)
        wide = [axis for axis in range(len(best)) if self._is_wide(tried, axis)]
        finer = [step for step in self.steps if np.flatnonzero(step)[0] in wide]
        yield dict.fromkeys(_hopeful(tried, _around(best, finer, FINE)), all_seeds)

    def best(self, tried: Tried) -> Point | None:
        """The lowest mean of those that have all seeds; while there is none, of the first few. None where all broke down."""
        finite = {point: losses for point, losses in tried.items() if math.isfinite(mean(losses))}
        complete = {point: losses for point, losses in finite.items() if len(losses) == len(self.seeds)}
        return min(complete or finite, key=lambda point: (mean(finite[point]), point), default=None)

    def along(self, tried: Tried, axis: int) -> Optimum | None:
        """The best rate of an axis, at the best of the others, with x = log2 of the rate."""
        if (best := self.best(tried)) is None:
            return None
        others = [i for i in range(len(best)) if i != axis]
        return optimum({p[axis] / 2: losses for p, losses in tried.items() if all(p[i] == best[i] for i in others)})

    def _contenders(self, tried: Tried, best: Point) -> Iterator[Point]:
        """What may be the best, judged by the seeds so far: the best itself, and all that are not surely worse."""
        sd, _ = noise(tried, best, NEAR)
        for point in tried:
            apart = difference(tried, point, best)
            spread = max(sd, deviation(apart)) if len(apart) > 1 else sd
            if point == best or average(apart) < CONTENDS * spread / len(apart) ** 0.5:
                yield point

    def _is_wide(self, tried: Tried, axis: int) -> bool:
        found = self.along(tried, axis)
        return found is None or not found.high - found.low <= self.width


def _hopeful(tried: Tried, points: Iterable[Point]) -> list[Point]:
    """Without those of which several runs all broke down."""
    return [p for p in points if len(tried.get(p, ())) < FEW or np.isfinite(list(tried[p].values())).any()]


def _around(point: Point, steps: Iterable[np.ndarray], size: int) -> list[Point]:
    return _inside(tuple(map(int, point + size * step)) for step in steps)


def _beyond(point: Point, step: np.ndarray) -> Point:
    """The next coarse rate in this direction along an axis."""
    return tuple(_coarser(power, sign) if sign else power for power, sign in zip(point, step.tolist(), strict=True))


def _start(low: float, high: float) -> list[int]:
    """The coarsest powers of an axis, of which there are enough; at least one."""
    inside = powers(low, high)
    for step in (COARSE, MEDIUM, FINE):
        found = [power for power in inside if power % step == 0]
        if len(found) >= LEAST_START:
            return found
    return list(inside) or [round(math.log2(low) + math.log2(high))]


def _coarser(power: int, sign: int) -> int:
    """The next multiple of COARSE, above or below."""
    return sign * (sign * power // COARSE + 1) * COARSE


def _inside(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if all(LOWEST <= power <= HIGHEST for power in point)]

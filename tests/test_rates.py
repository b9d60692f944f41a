"""The search for a rate against surfaces with a known optimum, and against the committed grids."""

import math
import os

import numpy as np
import pytest
from conftest import rejects
from surfaces import CASES, PLATEAU, SEEDS, recorded, runs_of, searched, simulated

from runner.core.optimum import optimum
from runner.sweeps import rates
from runner.sweeps.rates import RateSearch, powers, rate

TRIALS = int(os.environ.get("TRIALS", 100))  # a case; 500 take five times as long
GRID = 21 * len(SEEDS)  # runs of a grid of every factor of 2 from 1e-6 to 1


def trials(case, count=TRIALS, within=1.5):
    """(found, runs, surface) of searches on simulated surfaces."""
    rng = np.random.default_rng(sum(map(ord, case)))
    for _ in range(count):
        surface, asked = simulated(case, rng)
        search = RateSearch([(2.0 ** asked[0], 2.0 ** asked[1])], SEEDS, within)
        tried = searched(search, surface.run, start=PLATEAU)
        yield search.along(tried, 0), runs_of(tried), surface


def covers(found, surfaces, least=0.9):
    """Or as many as come of it by chance: a share of n trials scatters by sqrt(least·(1 - least) / n)."""
    held = [each is not None and each.low <= s.best <= each.high for each, s in zip(found, surfaces, strict=True)]
    assert np.mean(held) >= least - 2 * math.sqrt(least * (1 - least) / len(held))


@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_the_optimum_and_runs_are_saved(case):
    """Nine times of ten at least, in each kind of surface, at less than half a grid's runs, and no more than 1% of the loss above
    the best (in the mean over trials)."""
    found, runs, surfaces = zip(*trials(case), strict=True)
    covers(found, surfaces)
    shifted = [None if each is None else type(each)(**(vars(each) | {"low": each.x, "high": each.x})) for each in found]
    rejects(covers, shifted, surfaces)  # intervals of no width
    assert np.mean(runs) < GRID / 2
    assert np.mean([math.expm1(s.regret(each.point)) for each, s in zip(found, surfaces, strict=True) if each]) < 0.01


def test_a_search_that_stops_too_early_fails_the_same_checks(monkeypatch):
    """The control of the stopping rule: without neighbours of the best, intervals are open or miss."""
    monkeypatch.setattr(rates, "_around", lambda *_: [])
    found, _, surfaces = zip(*trials("valley", 100), strict=True)

    def check():
        assert all(each is not None and np.isfinite(each.high - each.low) for each in found)
        covers(found, surfaces)

    rejects(check)


def test_searches_end_within_what_was_asked_or_have_tried_all_there_is():
    """Factors of √2 are tried where the interval is too wide, and only there."""
    rng = np.random.default_rng(0)
    for within in (1.5, 20.0):
        finer = []
        for _ in range(50):
            surface, (low, high) = simulated("valley", rng)
            search = RateSearch([(2.0**low, 2.0**high)], SEEDS, within)
            tried = searched(search, surface.run, start=PLATEAU)
            found, place = search.along(tried, 0), search.best(tried)[0]
            narrow = found.high - found.low <= math.log2(within)
            finer.append(len(tried.get((place - 1,), ())) == len(tried.get((place + 1,), ())) == len(SEEDS))
            assert narrow or finer[-1]
        assert np.mean(finer) > 0.5 if within == 1.5 else np.mean(finer) < 0.5


def test_committed_grids_give_the_same_best_rate_for_less_than_half_of_their_runs():
    same, shares, regrets = [], [], []
    for x, losses in recorded():
        whole = optimum({at: dict(enumerate(of)) for at, of in zip(x, losses, strict=True)})
        places = {round(2 * at): i for i, at in enumerate(x)}

        def run(at, seed, places=places, losses=losses):
            inside = round(2 * at) in places
            return losses[places[round(2 * at)], seed] if inside else math.inf if at > max(places) / 2 else 1e3

        # Any interval is narrow enough: between the powers of 2 the grids have no rates.
        search = RateSearch([(2.0 ** x[0], 2.0 ** x[-1])], range(losses.shape[1]), math.inf)
        tried = searched(search, run)
        found = search.along(tried, 0)
        same.append(abs(found.x - whole.x) <= math.log2(1.3))
        shares.append(sum(len(of) for (at,), of in tried.items() if at in places) / losses.size)
        regrets.append(math.expm1(found.log_loss - whole.log_loss))
    assert len(same) >= 150 and np.mean(same) >= 0.95 and np.mean(shares) < 0.5 and np.quantile(regrets, 0.9) < 0.01


def test_rates_lie_on_one_lattice():
    assert [rate(k) for k in (-2, 0, 4)] == [0.5, 1.0, 4.0] and rate(1) == math.sqrt(2) and rate(-3) == math.sqrt(2) / 4
    assert [rate(k) for k in powers(0.5, 1)] == [0.5, math.sqrt(0.5), 1.0]
    assert list(powers(0.51, 0.69)) == []
    one, other = (RateSearch([ends], SEEDS, 1.5).start for ends in ((1e-6, 1.0), (1e-4, 10.0)))
    assert set(other) & set(one) == {point for point in one if rate(point[0]) >= 1e-4}  # they share what both have


@pytest.mark.parametrize(
    ("low", "high", "starts"), [(1e-6, 1, 7), (1e-3, 1e-2, 3), (1e-3, 3e-3, 3), (1.1e-3, 1.2e-3, 1)]
)
def test_a_narrow_range_starts_finer(low, high, starts):
    assert len(RateSearch([(low, high)], SEEDS, 1.5).start) == starts


def test_a_rate_that_two_seeds_broke_down_at_gets_no_more():
    def run(at, seed):
        return math.inf if at > -5.2 else 0.1 * (at + 6) ** 2 + 0.001 * seed * at

    tried = searched(RateSearch([(1e-6, 1.0)], SEEDS, 1.01), run)
    broken = [losses for losses in tried.values() if np.isposinf(list(losses.values())).any()]
    assert broken and all(len(losses) == rates.FEW for losses in broken)


def test_it_looks_for_lower_rates_where_all_break_down_and_ends_where_none_helps():
    tried = searched(
        RateSearch([(0.1, 100.0)], SEEDS, 1.5), lambda at, seed: math.inf if at > -8 else 0.01 * (at + 9) ** 2
    )
    found = RateSearch([(0.1, 100.0)], SEEDS, 1.5).along(tried, 0)
    assert found.point == -9 and not found.edge

    harmful = searched(RateSearch([(1e-6, 1.0)], SEEDS, 1.5), lambda at, seed: 2.0**at, start=0.0)
    assert runs_of(harmful) < 30  # it does not go down for ever
    never = searched(RateSearch([(1e-6, 1.0)], SEEDS, 1.5), lambda at, seed: math.inf)
    assert min(never)[0] == rates.LOWEST and RateSearch([(1e-6, 1.0)], SEEDS, 1.5).along(never, 0) is None


def test_two_axes_are_searched_together():
    """LoRA+: a valley across both, where only lr·ratio counts, with the best of the ratio at 2^5."""

    def run(lr, ratio, seed):
        return 0.02 * (lr + ratio + 3) ** 2 + 0.002 * (ratio - 5) ** 2 + 0.002 * seed * (lr - ratio) / 7

    search = RateSearch([(1e-6, 1.0), (0.25, 4096.0)], SEEDS, 1.5)
    tried = {}
    while wanted := search.wanted(tried):
        for (lr, ratio), count in wanted.items():
            tried[lr, ratio] = {seed: run(lr / 2, ratio / 2, seed) for seed in search.seeds[:count]}
    lr, ratio = (search.along(tried, axis) for axis in range(2))
    assert abs(lr.x + 8) < 1 and abs(ratio.x - 5) < 1 and not lr.edge and not ratio.edge
    assert runs_of(tried) < 21 * 15 * len(SEEDS) / 5  # of a grid of factors of 2

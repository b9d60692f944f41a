"""Noise, intervals, interpolation and best ratios against numbers that are worked out here by other means."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from grids import grid_of
from synthetic import sweep
from synthetic_variants import named, ranks

from analysis import scaling
from analysis.grid import Grid
from analysis.scaling import BEGIN, Estimate, PerSeed, bootstrap, features, learning_lrs, spread_gap

RATES = 2.0 ** np.arange(-6, 3)


def parabolas(rates: np.ndarray, losses: np.ndarray) -> Grid:
    """A grid of one width: log losses are parabolas of curvature 1 in log lr, around and above those of (init, seed)."""
    logs = losses[:, None] + (np.log(RATES)[None, :, None] - rates[:, None]) ** 2
    return grid_of(logs[:, None], lrs=RATES)


def spreads(x: np.ndarray, seeds: int, noise: float = 1.0) -> tuple[float, np.ndarray]:
    """What spread_gap must find of a statistic (init, seed) that is a mean over seeds: in the sample, and in all resamples.

    The variance of a mean is that of its seeds over their number; all S^S resamples, each as probable, stand for the bootstrap.
    """
    centred = x - x.mean(0)
    v = noise * centred.var(axis=1, ddof=1).mean() / seeds
    draws = np.array(list(itertools.product(range(seeds), repeat=seeds)))
    root = lambda of_means, times: np.sqrt(np.maximum(of_means.var(axis=0) - times * v, 0))  # noqa: E731
    return root(x.mean(1), 1), root(x[:, draws].mean(2), 2)


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3], ids="alike a_little far_apart".split())
def test_noise_is_taken_out_of_the_spreads_of_inits(spread):
    """To rounding: rates stay within half a step of the grid's, so that both statistics are means over seeds."""
    rng, at = np.random.default_rng(0), 4
    rates = np.log(RATES[at]) + spread * np.linspace(-0.5, 0.5, 4)[:, None] + 0.05 * rng.standard_normal((4, 5))
    losses = spread * rng.standard_normal((4, 1)) / 3 + 0.1 * rng.standard_normal((4, 5))
    grid = parabolas(rates, losses)

    def check(estimate, noise=1.0, seeds=5):
        (lr, lrs), (loss, all_losses) = (spreads(x, seeds, noise) for x in (rates, grid.log_loss[:, 0, at]))
        tail = scaling._tail(5)
        low, high = np.quantile(lrs - all_losses, [tail, 1 - tail], method="inverted_cdf")
        assert [estimate.value, estimate.low, estimate.high] == pytest.approx([lr - loss, low, high], abs=1e-9)

    found = spread_gap(grid, grid.inits)
    check(found)
    if spread:
        rejects(check, found, 4 / 5)  # the noise without S/(S - 1)
        rejects(check, found, 0.0)
        rejects(check, spread_gap(grid, grid.inits[:3]))


def test_below_five_seeds_spreads_are_plain_and_without_an_interval():
    rng = np.random.default_rng(1)
    rates, losses = np.log(RATES[4]) + 0.1 * rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    grid = parabolas(rates, losses)
    found = spread_gap(grid, grid.inits)
    expected = rates.mean(1).std() - grid.log_loss[:, 0, 4].mean(1).std()
    assert found.value == pytest.approx(expected) and np.isnan([found.low, found.high]).all()
    assert found.value != pytest.approx(rates.mean(1).std(ddof=1) - grid.log_loss[:, 0, 4].mean(1).std(ddof=1))


def of_100(missing, unknown=np.nan):
    return np.concatenate([np.full(missing, unknown), np.arange(1.0, 101 - missing)])


@pytest.mark.parametrize("unknown", [np.nan, np.inf, -np.inf])
def test_resamples_without_a_value_lie_beyond_either_end(unknown):
    """Of 100 of one weight at a tail of 5.5: 5.5 are left out on each side, those without a value first."""
    even = np.full(100, 0.01)

    def check(missing, low, high):
        assert scaling._interval(of_100(missing, unknown), even, 0.055) == pytest.approx((low, high), nan_ok=True)

    check(0, 6, 95)
    check(3, 3, 95)
    check(5, 1, 95)  # the last that is allowed
    check(6, np.nan, np.nan)
    check(100, np.nan, np.nan)
    rejects(check, 3, 6, 92)  # of those with a value alone


def test_resamples_count_by_their_weights():
    sample, weights = np.array([1.0, 2.0, 3.0, np.nan]), np.array([0.02, 0.9, 0.05, 0.03])
    assert scaling._interval(sample, weights, 0.04) == (1.0, 3.0)
    assert scaling._interval(sample, weights, 0.07) == (2.0, 3.0)
    assert scaling._interval(sample, weights, 0.09) == (2.0, 2.0)
    assert scaling._interval(sample, 10 * weights, 0.07) == (2.0, 3.0)  # whatever they add up to
    assert np.isnan(scaling._interval(sample, weights, 0.02)).all()


def test_tails_are_those_of_students_t():
    """t(0.975) = 2.776 for 4 degrees of freedom and 2.571 for 5, from its table; Φ(-3.104) = 0.00096, Φ(-2.816) = 0.00243."""
    assert [scaling._tail(seeds) for seeds in (5, 6)] == pytest.approx([0.000955, 0.002430], rel=2e-3)


def test_a_bootstrap_statistic_that_is_not_finite_has_no_value():
    found = bootstrap(PerSeed(np.arange(5.0)), lambda seeds: np.array([np.inf, -np.inf, np.nan, seeds.values.mean()]))
    assert np.isnan([[e.value, e.low, e.high] for e in found[:3]]).all() and found[3].value == 2.0
    assert bootstrap(PerSeed(np.arange(4.0)), lambda seeds: np.array([seeds.values.max()]))[0].value == 3.0
    assert 0 < found[3].low < 2.0 < found[3].high < 4


def test_every_value_of_a_bootstrap_has_its_own_interval():
    """A statistic that all seeds share has an interval of no width."""
    per_seed = PerSeed(np.array([1.0, 2.0, 4.0, 8.0, 16.0]))
    shared, mean = bootstrap(per_seed, lambda seeds: np.array([7.0, seeds.values.mean()]))
    assert shared == Estimate(7.0, 7.0, 7.0) and mean.low < mean.value < mean.high


def test_a_rate_counts_only_where_runs_learn_a_tenth_of_the_loss():
    """Best losses of 0.89 and 0.91 times that at the start, whose log is the mean over the runs that there are."""
    rates, losses = np.full((1, 5), np.log(RATES[4])), np.zeros((1, 5))
    grid = parabolas(rates, losses)
    width = np.full((1, 1, len(RATES), 5), np.nan)
    width[..., 3:6, :4] = 1.0

    def begins(start):
        grid.columns[BEGIN] = start * width
        return learning_lrs(grid, "0")[0]

    assert begins(1 / 0.89) == pytest.approx(np.log(RATES[4])) and np.isnan(begins(1 / 0.91))
    width[..., 3, :] = [1.2, 1 / 1.2, 1, 1, np.nan]  # alike in the mean of logs
    assert np.isfinite(begins(1 / 0.89)) and np.isnan(begins(1 / 0.91))
    width[...] = np.nan
    assert np.isnan(begins(1.0))


def ratio_grid(best: float, ratios: np.ndarray, rate: float = 4) -> Grid:
    """Of two rates, for five seeds: log loss is a parabola in each, around `best` (a log) and the grid's rate number `rate`."""
    of_ratio = (np.log(ratios) - best) ** 2
    logs = of_ratio[:, None] + (np.arange(len(RATES)) - rate) ** 2
    return grid_of([np.repeat(logs[:, :, None], 5, axis=2)], widths=ratios, lrs=RATES)


def test_the_best_of_two_rates_ratios():
    ratios = 4.0 ** np.arange(-1, 4)
    for best in (0.1, 1.0, np.log(16) - 0.2):
        found = scaling.best_ratio(ratio_grid(best, ratios), "0")
        assert found == pytest.approx(best)
        assert found != pytest.approx(best + 0.01)
    assert scaling.best_ratio(ratio_grid(-3.0, ratios), "0") == np.log(ratios[0])  # a bound
    assert scaling.best_ratio(ratio_grid(9.0, ratios), "0") == np.log(ratios[-1])
    assert np.isnan(scaling.best_ratio(ratio_grid(1.0, ratios, rate=0), "0"))  # of rates at the edge


@pytest.mark.parametrize(("at", "known"), [(0, True), (1, False), (2, False), (3, False), (4, True)])
def test_a_best_ratio_is_compared_with_its_neighbours_alone(at, known):
    """The best of five is the third: a rate at the edge counts there and beside it; a ratio at which all diverge never does."""
    grid = ratio_grid(np.log(4.0), 4.0 ** np.arange(-1, 4))
    grid.log_loss[0, at, 5:] = np.nan  # so that the best rate is the last that was tried
    grid = replace(grid)
    assert np.isfinite(scaling.best_ratio(grid, "0")) == known
    grid.log_loss[0, at] = np.inf
    grid = replace(grid)
    if at != 2:
        assert scaling.best_ratio(grid, "0") == pytest.approx(np.log(4.0))  # beside no number it is the grid's


def test_the_best_ratio_of_one_init_over_that_of_another():
    ratios = 4.0 ** np.arange(-1, 4)
    first, second = ratio_grid(2.0, ratios), ratio_grid(0.5, ratios)
    grid = grid_of(np.concatenate([first.log_loss, second.log_loss]), widths=ratios, lrs=RATES)
    assert scaling.best_ratios(grid, "0").value == pytest.approx(2.0)
    assert scaling.best_ratios(grid, "0", "1").value == pytest.approx(1.5)
    grid.log_loss[1] = ratio_grid(9.0, ratios).log_loss
    grid = replace(grid)
    assert np.isnan(scaling.best_ratios(grid, "0", "1").value) and np.isnan(scaling.best_ratios(grid, "1").value)


def test_features_are_read_at_the_step_or_the_next_that_was_logged():
    steps = [0, 1, 3, 12, 15]
    size = {f"feature/{name}": np.array([1.0, 2, 3, 4, 5]) for name in "Z_A Z_B delta_1 delta_2 delta_3".split()}
    size["feature/delta_1"] = np.array([0.0, 0, 2, 0, 4])
    size["feature/delta_3"] = np.array([1.0, 2, 3, 4, np.nan])
    frame = pd.DataFrame(
        {"run_id": "a", "status": "finished", "step": steps, "eval/loss": [9.0, *[np.nan] * 4], **size}
    )
    found = features(pd.concat([frame, frame.assign(run_id="b", status="diverged")]).sample(frac=1, random_state=0))
    assert list(found.index) == ["a"]
    row = found.loc["a"]
    assert row["feature/Z_A"] == 4 and row["start/feature/Z_A"] == 3 and row["final/feature/Z_A"] == 5
    assert row["final/feature/delta_3"] == 4 and row["start/eval/loss"] == 9  # those of the last update
    assert np.isposinf(row["delta_2/delta_1"])  # over zero: no value, as `Grid.value` says
    assert "start/eval/loss" not in features(frame.drop(columns="eval/loss"))


def test_a_rank_equal_to_a_fixed_alpha_belongs_to_its_sweep():
    frame = ranks(noise=0.0)
    part = frame[(frame["adapter.name"] == "lora") & (frame["adapter.alpha"] == 1.0)]

    def found(frame):
        return {power: grid.widths.tolist() for power, grid in scaling.rank_grids(frame).items()}

    fixed, follows = part.assign(**{"adapter.alpha": 8.0}), named(part, "f", **{"adapter.alpha": part["adapter.rank"]})
    assert found(fixed) == {-1.0: [2, 4, 8, 16]}
    assert found(follows) == {0.0: [2, 4, 8, 16]}
    both = pd.concat([fixed, follows[follows["adapter.rank"] != 8]])  # rank 8 with alpha 8 is one run, of both sweeps
    assert found(both) == {0.0: [2, 4, 8, 16], -1.0: [2, 4, 8, 16]}
    assert found(fixed.assign(**{"adapter.name": "rslora"})) == {-0.5: [2, 4, 8, 16]}
    assert found(follows.assign(**{"adapter.name": "rslora"})) == {0.5: [2, 4, 8, 16]}
    one = follows["adapter.rank"] == 8
    assert found(follows[one]) == {0.0: [8]} and found(part[part["adapter.rank"] == 8]) == {-1.0: [8]}
    assert list(found(frame)) == [0.0, -0.5, -1.0]


def test_sizes_along_a_rule_pass_through_the_mean_of_the_best_rates():
    """Z_A is the rate itself, so that it shows where it was read; a width without a best rate takes no part in the mean."""
    frame = sweep(noise=0.0)
    frame["feature/Z_A"] = frame["optimizer.lr"]
    grid = Grid.of(frame, features(frame))
    best = scaling.best_lrs(grid, "gaussian_A")
    along = scaling.sizes_along(grid, "gaussian_A", "feature/Z_A", -1.0)
    assert along.mean() == pytest.approx(best.mean()) and np.diff(along) == pytest.approx(-np.log([2, 2, 2]))
    grid.log_loss[0, 0, : len(grid.lrs) - 4] = np.nan  # its best is the first that is left, at the edge
    grid = replace(grid)
    best = scaling.best_lrs(grid, "gaussian_A")
    assert np.isnan(best[0]) and np.isfinite(best[1:]).all()
    along = scaling.sizes_along(grid, "gaussian_A", "feature/Z_A", -1.0)
    assert along[1:].mean() == pytest.approx(best[1:].mean())
    grid.log_loss[0] = np.nan
    grid = replace(grid)
    assert np.isnan(scaling.sizes_along(grid, "gaussian_A", "feature/Z_A", -1.0)).all()

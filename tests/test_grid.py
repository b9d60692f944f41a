"""Best learning rates and exponents against sweeps whose answers are known."""

import numpy as np
import pytest
from conftest import rejects
from synthetic import LRS, WIDTHS, sweep

from analysis import scaling
from analysis.grid import Grid
from analysis.scaling import best_lrs, bootstrap, exponent, features, sizes, sizes_along


def test_the_vertex_of_a_parabola_is_found_between_grid_points():
    """Log loss is exactly quadratic in log lr here, so three points give the vertex to rounding."""
    frame = sweep(noise=0.0)

    def check(grid, factor):
        for i, width in enumerate(WIDTHS):
            assert grid.best("gaussian_A", width).lr == pytest.approx(factor * 0.05 * 2 ** (-0.5 * i), rel=1e-9)

    check(Grid.of(frame), 1.0)
    rejects(check, Grid.of(frame), 1.01)


def test_a_best_lr_at_the_edge_is_flagged_and_left_out():
    grid = Grid.of(sweep(lrs=tuple(lr for lr in LRS if lr <= 0.04)))  # below lr* of Init[A] at n = 128
    best = grid.best("gaussian_A", 128)
    assert best.edge and best.grid_lr == max(lr for lr in LRS if lr <= 0.04)
    assert np.isnan(best_lrs(grid, "gaussian_A")[0]) and np.isfinite(best_lrs(grid, "gaussian_A")[-1])
    assert not Grid.of(sweep()).best("gaussian_A", 128).edge


def test_a_diverged_neighbour_leaves_the_grids_best():
    frame = sweep(noise=0.0, edge={"A": 1.0})
    best = Grid.of(frame).best("gaussian_A", 128)
    assert best.lr == best.grid_lr == 0.03125 and not best.edge  # 0.0625 diverges: no parabola, but not the edge either


def test_a_lr_at_which_one_seed_diverged_does_not_compete():
    frame = sweep(noise=0.0)
    worst = (frame["optimizer.lr"] == 0.0625) & (frame["seed"] == 2) & (frame["init.name"] == "gaussian_A")
    frame.loc[worst, "status"] = "diverged"
    assert Grid.of(frame).best("gaussian_A", 128).grid_lr == 0.03125


def test_exponents_are_recovered():
    """Noise of 2% on five seeds at four widths leaves a standard error of 0.006 on a slope; 0.05 is eight of them."""
    frame = sweep()
    grid = Grid.of(frame, features(frame))

    def check(power):
        for measured in (best_lrs(grid, "gaussian_B"), sizes(grid, "gaussian_B", "feature/delta_2")):
            assert exponent(grid.widths, measured) == pytest.approx(power, abs=0.05)

    check(-1.0)
    rejects(check, -0.9)


@pytest.mark.parametrize("seeds", [5, 6, 9])
def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch, seeds):
    """Of 300 normal samples of 5 seeds or more, 95% intervals of the mean must cover 0 in 89% to 98%.

    The standard error of that share is 1.3%, and what is left of the small-sample bias is about 2%. The plain percentile
    interval, at 82%, is rejected.
    """
    monkeypatch.setattr(scaling, "RESAMPLES", 500)
    rng = np.random.default_rng(1)

    def coverage(truth):
        covered = 0
        for _ in range(300):
            grid = Grid(
                ["a"], np.array([1]), np.array([1.0]), np.arange(seeds), rng.standard_normal((1, 1, 1, seeds)), {}
            )
            [estimate] = bootstrap(grid, lambda g: g.log_loss.mean(axis=3).ravel())
            covered += estimate.low <= truth <= estimate.high
        assert 0.89 < covered / 300 < 0.98, covered / 300

    coverage(0.0)
    rejects(coverage, 1.0)
    if seeds == 5:
        monkeypatch.setattr(scaling, "_tail", lambda seeds: 0.025)
        rejects(coverage, 0.0)


@pytest.mark.parametrize("seeds", [3, 5, 9])
def test_resamples_are_those_of_drawing_with_replacement(seeds):
    """Exact for few seeds, random for many: the mean number of times a seed is drawn is 1, its variance 1 - 1/S."""
    draws, weights = scaling._resamples(seeds)
    counts = (draws == 0).sum(axis=1)
    assert weights.sum() == pytest.approx(1)
    assert weights @ counts == pytest.approx(1, abs=1e-12 if seeds < 6 else 0.1)
    assert weights @ (counts - 1) ** 2 == pytest.approx(1 - 1 / seeds, abs=1e-12 if seeds < 6 else 0.15)
    assert (len(draws) == scaling.RESAMPLES) == (seeds > 6)
    assert weights @ (counts - 1) ** 2 != pytest.approx(1, abs=0.1)  # of drawing without the sum being fixed


def test_sizes_are_interpolated_in_lr():
    """A size that itself grows like √lr must be read at lr*, not at the nearest grid point."""
    frame = sweep(noise=0.0)
    frame["feature/Z_A"] = np.sqrt(frame["optimizer.lr"])
    grid = Grid.of(frame, features(frame))
    np.testing.assert_allclose(sizes(grid, "gaussian_A", "feature/Z_A"), best_lrs(grid, "gaussian_A") / 2, rtol=1e-9)
    along = sizes_along(grid, "gaussian_A", "feature/Z_A", -0.5)
    assert exponent(grid.widths, along) == pytest.approx(-0.25)
    assert exponent(grid.widths, sizes_along(grid, "gaussian_A", "feature/Z_A", -1.0)) == pytest.approx(-0.5)


def test_too_few_widths_or_seeds_give_no_answer():
    assert np.isnan(exponent(np.array([128, 256]), np.array([0.0, 1.0])))
    assert np.isnan(exponent(np.array([128, 256, 512]), np.array([0.0, np.nan, 1.0])))
    grid = Grid.of(sweep(seeds=(0, 1, 2, 3)))
    [estimate] = bootstrap(grid, lambda g: np.array([best_lrs(g, "gaussian_A")[0]]))
    assert np.isfinite(estimate.value) and np.isnan([estimate.low, estimate.high]).all()


def test_the_bootstrap_keeps_inits_paired():
    """A shift common to both inits of a seed leaves their difference without any spread."""
    frame = sweep(noise=0.0)
    frame["summary.final_loss"] *= 1 + frame["seed"]
    grid = Grid.of(frame)
    [paired] = bootstrap(grid, lambda g: np.array([g.paired("gaussian_A", "gaussian_B", 512).mean()]))
    [single] = bootstrap(grid, lambda g: np.array([g.best("gaussian_A", 512).log_loss]))
    assert paired.high - paired.low < 1e-12 < 0.1 < single.high - single.low

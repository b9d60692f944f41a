"""Best learning rates and exponents against sweeps whose answers are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from grids import curve, grid_of
from synthetic import LRS, WIDTHS, sweep

from analysis import scaling
from analysis.between import interpolated, vertex
from analysis.grid import Grid, Mixture, NotShown
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
            grid = grid_of(rng.standard_normal((1, 1, 1, seeds)))
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


@pytest.mark.parametrize(
    ("logs", "lr", "edge"),
    [
        ([1, 0, 1, 4, 9], 2.0, False),  # the second
        ([9, 4, 1, 0, 1], 8.0, False),  # the last but one
        ([0, 1, 4, 9, 16], 1.0, True),
        ([16, 9, 4, 1, 0], 16.0, True),
        ([3, 3, 3, 3, 3], 1.0, True),  # of several the first
        ([4, 0, 0, 4], 2.0 * 2**0.5, False),  # two equal ones, between which the vertex lies
        ([np.nan, 0, 1, 4], 2.0, True),  # the first that was tried
        ([4, 1, 0, np.nan], 4.0, True),
        # Neighbours are those that were tried; slopes by powers of 2 are -2 and 4.
        ([4, np.nan, 0, 4], 2.0**1.5, False),
        ([4, 1, 0, np.inf], 4.0, False),
        ([np.inf, 0, 1], 2.0, False),
        ([5], 1.0, True),
        ([5, np.inf], 1.0, True),
    ],
)
def test_where_the_best_rate_lies(logs, lr, edge):
    grid = grid_of([curve(*logs)])
    best = grid.best("0", 1)
    assert best.lr == pytest.approx(lr) and best.edge == edge and best.log_loss == np.nanmin(logs)
    assert best.grid_lr == grid.lrs[int(np.nanargmin(logs))]
    assert best.lr != pytest.approx(1.01 * lr)


@pytest.mark.parametrize("logs", [[np.nan] * 3, [np.inf] * 3, [np.inf, np.nan, np.inf]])
def test_there_is_no_best_rate_where_no_run_finished(logs):
    best = grid_of([curve(*logs)]).best("0", 1)
    assert best.edge and np.isnan([best.lr, best.grid_lr, best.log_loss]).all()


def test_three_points_on_no_parabola_have_the_middle_one():
    x = np.log([0.1, 0.3, 0.5])
    for y in ([1, 1, 1], [np.inf, 1, 2], [2, 1, np.inf]):
        assert vertex(x, np.array(y, float)) == pytest.approx(0.3)
    assert vertex(x, np.array([1, 1, 1 + 1e-9])) != pytest.approx(0.3)


@pytest.mark.parametrize("points", [1, 2, 4])
def test_interpolation_refuses_what_it_cannot_answer(points):
    xs = np.log([0.1, 0.2, 0.4, 0.8])[:points]
    ys = np.array([1.0, 2.0, 5.0, np.nan])[:points]
    for x in (np.nan, xs[0] - 0.1, xs[-1] + 0.1, -np.inf, np.inf):
        assert np.isnan(interpolated(x, xs, ys))
    for x, y in zip(xs, ys, strict=True):
        for near in (x, np.nextafter(x, -9), np.nextafter(x, 9)):  # as exp and log leave it
            assert interpolated(near, xs, ys) == pytest.approx(y, nan_ok=True)
    if points > 1:
        assert interpolated(xs[0] + 0.25 * (xs[1] - xs[0]), xs, ys) == pytest.approx(1.25)
        assert np.isnan(interpolated(xs[0] + 0.01, xs, np.where(xs == xs[0], -np.inf, ys)))
    if points > 2:
        assert np.isnan(interpolated(xs[2] + 0.01, xs, ys))  # a neighbour has no value


def test_a_value_needs_a_rate_and_runs_that_have_it():
    """A grid of one rate answers for that rate alone; the mean is one of logs, over all seeds."""

    def of(*sizes):
        return grid_of(np.zeros((1, 1, 1, 2)), columns={"size": np.array(sizes)[None, None, None]}, lrs=[0.3])

    grid = of(1.0, 4.0)
    assert grid.value("size", "0", 1, 0.3) == pytest.approx(np.log(2))
    assert np.isnan([grid.value("size", "0", 1, lr) for lr in (np.nan, 0.29, 0.31)]).all()
    for lacking in (np.nan, 0.0, -1.0):
        assert np.isnan(of(lacking, 4.0).value("size", "0", 1, 0.3))
    with pytest.raises(ValueError):
        grid.value("size", "0", 2, 0.3)  # no such width


def table(losses, **columns):
    runs = {"run_id": [f"r{i}" for i in range(len(losses))], "status": "finished", "experiment": "e", "seed": 0}
    runs |= {
        "task.name": "teacher_student",
        "task.width": 8,
        "init.name": "a",
        "optimizer.lr": np.arange(1.0, len(losses) + 1),
    }
    return pd.DataFrame(runs | {"summary.final_loss": losses, "adapter.rank": 4, "step": 0} | columns)


def test_a_loss_of_zero_is_the_lowest():
    best = Grid.of(table([2.0, 0.0, 1e-30, 3.0])).best("a", 8)
    assert best.grid_lr == 2 and np.isfinite([best.log_loss, best.lr]).all() and best.log_loss < np.log(1e-37)
    rows = Grid.of(table([1.0, np.nan, 0.5], status=["finished", "finished", "diverged"])).log_loss[0, 0, :, 0]
    assert rows[0] == 0 and np.isnan(rows[1]) and np.isposinf(rows[2])


def test_along_another_column():
    frame = table([1.0, 2.0], **{"adapter.rank": [4, 8]})
    assert Grid.along(frame, "adapter.rank").widths.tolist() == [4, 8]
    with pytest.raises(NotShown, match=r"e: run r1 has no adapter.rank, by which"):
        Grid.along(frame.assign(**{"adapter.rank": [4, np.nan]}), "adapter.rank")
    with pytest.raises(NotShown, match=r"runs at widths 8, 16, where this figure shows adapter.rank at one"):
        Grid.along(frame.assign(**{"task.width": [8, 16]}), "adapter.rank")
    with pytest.raises(Mixture, match=r"differ in adapter.rank, and"):
        Grid.of(pd.concat([frame, table([3.0], **{"run_id": "other", "adapter.rank": 16})]))


def test_a_resample_holds_the_columns_of_the_same_seeds():
    grid = Grid(["a"], np.ones(1), np.ones(1), np.array([7, 8, 9]), np.arange(3.0)[None, None, None], {})
    [drawn] = replace(grid, columns={"c": 10 * grid.log_loss}).resamples(np.array([[2, 0, 2]]))
    assert drawn.seeds.tolist() == [9, 7, 9] and drawn.log_loss[0, 0, 0].tolist() == [2, 0, 2]
    assert drawn.columns["c"][0, 0, 0].tolist() == [20, 0, 20]
    assert drawn.scores("a", 1.0).tolist() == [4 / 3]
    assert replace(drawn, log_loss=drawn.log_loss + 1).scores("a", 1.0).tolist() == [
        7 / 3
    ]  # not those of the sample it was
    assert (drawn.inits, drawn.widths, drawn.lrs) == (grid.inits, grid.widths, grid.lrs)

"""The place of the best rate: on parabolas, against all groups of three seeds written out, and in simulation."""

import itertools

import numpy as np
import pytest
from conftest import rejects
from grids import grid_of
from surfaces import SHAPES, noises

from analysis import scaling, vertices
from analysis.scaling import best_lrs, bootstrap, exponent

X = np.log([0.1, 0.3, 0.5])


def test_the_vertex_of_three_points():
    x = np.array([0.0, 1.0, 3.0, 4.0])
    y = np.array([2 * (x - at) ** 2 for at in (0.9, 1.2, 2.9)])
    np.testing.assert_allclose(vertices.vertices(x, y), [0.9, 1.2, 2.9], rtol=1e-12)
    assert np.isnan(vertices.vertices(x, np.full(4, np.inf)))


def test_three_points_on_no_parabola_have_the_middle_one():
    """Or, where all are as low, the first."""
    for y in ([np.inf, 1, 2], [2, 1, np.inf]):
        assert vertices.vertices(X, np.array(y, float)) == X[1]
    assert vertices.vertices(X, np.ones(3)) == X[0]
    assert vertices.vertices(X, np.array([1 + 1e-9, 1, 1 + 1e-9])) != pytest.approx(X[1])


def noisy(seeds, diverged=0.0):
    rng = np.random.default_rng(seeds)
    losses = (np.arange(7) - 3.3)[None, None, :, None] ** 2 / 4 + rng.standard_normal((2, 3, 7, seeds))
    losses[rng.random(losses.shape) < diverged] = np.inf
    return grid_of(losses, widths=(1, 2, 4))


@pytest.mark.parametrize("diverged", [0.0, 0.2])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 7])
def test_it_is_the_mean_over_all_threes_of_seeds(seeds, diverged):
    """Of the grid, and of bootstrap samples of it, which hold seeds more than once."""
    grid, rng = noisy(seeds, diverged), np.random.default_rng(0)

    def check(sample, size=3):
        log_lrs = np.log(sample.lrs)
        for i, init in enumerate(sample.inits):
            for w, width in enumerate(sample.widths):
                threes = map(list, itertools.combinations(range(seeds), min(size, seeds)))
                lost = np.isinf(grid.log_loss[i, w]).any(1, keepdims=True)
                losses = np.where(lost, np.inf, sample.log_loss[i, w])
                found = [vertices.vertices(log_lrs, losses[:, three].mean(1)) for three in threes]
                best = sample.best(init, width)
                assert np.isnan(best.grid_lr) == lost.all()
                assert lost.all() or np.log(best.lr) == pytest.approx(np.mean(found), abs=1e-9)

    for sample in (grid, *(grid.resample(rng.integers(0, seeds, seeds)) for _ in range(5))):
        check(sample)
    if seeds > 3 and not diverged:
        rejects(check, grid, 1)
        rejects(check, grid, seeds)


def test_a_rate_at_which_a_seed_diverged_is_no_neighbour_for_any_three():
    """Sizes there are not known of all seeds; so the best rate stays where they are."""
    losses = np.repeat(np.array([4.0, 1.0, 0.0, 0.0, 4.0])[None, None, :, None], 16, axis=3)
    losses[0, 0, 3, 5] = np.inf
    grid = grid_of(losses, columns={"size": np.where(np.isinf(losses), np.nan, 1.0)})
    assert grid.best("0", 1).lr == pytest.approx(4.0)
    [size] = bootstrap(grid, lambda g: scaling.sizes(g, "0", "size"))
    assert [size.value, size.low, size.high] == pytest.approx([0.0] * 3)


def test_shares_are_how_often_a_group_is_drawn():
    """Of 5 positions that hold the seeds 0, 0, 0, 2, 3 there are ten threes."""
    groups, found = vertices.groups(4, 3), vertices.shares(np.array([3, 0, 1, 1]), 3)
    of = {tuple(group): share for group, share in zip(groups.tolist(), found, strict=True) if share}
    assert of == pytest.approx({(3, 0, 0, 0): 0.1, (2, 0, 1, 0): 0.3, (2, 0, 0, 1): 0.3, (1, 0, 1, 1): 0.3})


WIDTHS = 2.0 ** np.arange(7, 12)
SLOPE = -0.8


def simulated(rng, seeds, shape="valley", curvature=0.05):
    """A grid whose best rates fall as n^SLOPE, anywhere between the rates of octaves, with the noise of a toy's record."""
    x = np.arange(-13.0, -1.0)
    best = -6 + rng.uniform(-0.5, 0.5) + SLOPE * (np.log2(WIDTHS) - 9)
    losses = np.empty((1, len(WIDTHS), len(x), seeds))
    choices = noises("lr_vs_width")
    for w, at in enumerate(best):
        u, residuals = choices[rng.integers(len(choices))]
        columns, signs = rng.integers(0, residuals.shape[1], seeds), rng.choice([-1, 1], seeds)
        noise = np.array([np.interp(x - at, u, residuals[:, c]) for c in columns]).T * signs
        losses[0, w] = curvature * (
            SHAPES[shape](x - at)[:, None] + noise * np.minimum(1, 2.0 ** (x - at + 2))[:, None]
        )
    return grid_of(losses, widths=WIDTHS, lrs=2.0**x)


@pytest.mark.parametrize("seeds", [6, 16])
def test_intervals_of_exponents_cover_them(monkeypatch, seeds):
    """Of 100 simulated sweeps at least 90: of 95%, 2.2 standard errors less. Halved intervals do not."""
    monkeypatch.setattr(scaling, "RESAMPLES", 200)
    rng = np.random.default_rng(seeds)
    slope = lambda g: np.array([exponent(g.widths, best_lrs(g, "0"))])  # noqa: E731
    found = np.array([
        (e.value, e.low, e.high) for e in (bootstrap(simulated(rng, seeds), slope)[0] for _ in range(100))
    ])  # fmt: skip

    def covers(value, low, high):
        held = (low <= SLOPE) & (high >= SLOPE)
        assert held.mean() >= 0.9, held.mean()

    value, low, high = found.T
    covers(value, low, high)
    rejects(covers, value, (value + low) / 2, (value + high) / 2)
    assert abs(value.mean() - SLOPE) < 0.02

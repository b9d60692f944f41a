"""The best point of a curve, against what other libraries say of the same numbers."""

import math

import numpy as np
import pytest
from conftest import rejects
from scipy import stats

from runner.core import optimum as module
from runner.core.optimum import difference, half_width, interval, noise, optimum, shared_seeds

SEEDS, US = 5, np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


def valley(noise=0.01, seeds=SEEDS):
    """Log losses (P, S): a parabola whose lowest point is 0.1 above the middle, with noise of each point and seed."""
    rng = np.random.default_rng(3)
    return (0.05 * (US - 0.1) ** 2)[:, None] + rng.normal(0, 0.3, seeds) + noise * rng.normal(size=(len(US), seeds))


def curve(losses, xs=US):
    return {x: dict(enumerate(of)) for x, of in zip(xs, losses, strict=True)}


def test_the_vertex_is_that_of_the_parabola_through_the_means():
    losses = valley()
    a, b, _ = np.polyfit(US, losses.mean(1), 2)
    found, *_ = module._vertex(curve(losses), 0.0, US)

    def check(x):
        assert found == pytest.approx(x, rel=1e-9)

    check(-b / (2 * a))
    rejects(check, -b / a)


def test_at_the_ends_of_fiellers_interval_the_slope_differs_from_0_at_just_5_percent():
    """Student's test of the slopes of the seeds' own parabolas there; between the ends p is larger, outside smaller."""
    losses = valley()
    coefficients = np.polyfit(US, losses, 2)  # (3, S)
    _, low, high = module._vertex(curve(losses), 0.0, US)

    def p(u):
        return stats.ttest_1samp(2 * coefficients[0] * u + coefficients[1], 0).pvalue

    def check(low, high):
        assert p(low) == pytest.approx(0.05, rel=1e-6) and p(high) == pytest.approx(0.05, rel=1e-6)

    check(low, high)
    rejects(check, low, high + 0.01)
    assert p((low + high) / 2) > 0.05 > max(p(low - 0.1), p(high + 0.1))


def test_without_a_curvature_there_is_no_interval():
    flat = valley(noise=0.05) - (0.05 * (US - 0.1) ** 2)[:, None]
    assert module._vertex(curve(flat), 0.0, US)[1:] == (-math.inf, math.inf)
    assert module._vertex(curve(valley(seeds=1)), 0.0, US)[1:] == (-math.inf, math.inf)


def test_intervals_of_means_are_students():
    values = [0.3, -0.1, 0.7, 0.2]
    for confidence in (0.95, 0.99):
        ends = stats.ttest_1samp(values, 0).confidence_interval(confidence)
        assert interval(values, confidence) == pytest.approx((ends.low, ends.high), rel=1e-12)
        assert half_width(float(np.std(values, ddof=1)), 4, confidence) == pytest.approx((ends.high - ends.low) / 2)
    assert np.isnan([*interval([1.0]), *interval([1.0, math.inf])]).all()


def test_noise_is_pooled_over_the_differences_of_near_points():
    losses = valley(noise=0.02)
    apart = np.delete(losses, 2, axis=0) - losses[2]
    sd, dof = noise(curve(losses), 0.0)
    assert sd == pytest.approx(np.sqrt(apart.var(axis=1, ddof=1).mean())) and dof == 4 * (SEEDS - 1)
    far = curve(losses, [-9.0, -8.0, 0.0, 7.0, 9.0])  # the nearest alone, where none is near
    assert noise(far, 0.0)[0] == pytest.approx(apart[2].std(ddof=1))


def test_only_points_with_the_same_seeds_compete():
    """One seed more at one point does not leave that alone; and two seeds at another do not beat five."""
    points = curve(valley(noise=0.0))
    more = {**points, -1.0: {**points[-1.0], 9: -5.0}}
    assert shared_seeds(more) == set(range(SEEDS)) and optimum(more) == optimum(points)
    lucky = {**points, 2.0: {0: points[0.0][0] - 3, 1: points[0.0][1] - 3}}
    assert optimum(lucky).point == 0.0
    assert difference(lucky, 2.0, 0.0) == pytest.approx([-3, -3])


def test_a_point_where_runs_broke_down_bounds_the_best():
    points = curve(valley(noise=0.001)) | {1.0: dict.fromkeys(range(SEEDS), math.inf), 0.5: {0: math.inf, 1: math.inf}}
    found = optimum(points)
    assert found.point == 0.0 and found.cliff and found.high <= 0.5 and not found.edge
    assert optimum({0.0: {0: math.inf}}) is None

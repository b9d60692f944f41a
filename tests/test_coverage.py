"""Intervals of the best rates' exponents on simulated sweeps, with the shapes and the noise of seeds that records have."""

import numpy as np
import pytest
from conftest import rejects
from grids import grid_of
from surfaces import SHAPES, noises

from analysis import scaling
from analysis.scaling import best_lrs, bootstrap, exponent

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

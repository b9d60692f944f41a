"""Controls of what inits change at once, and readings of one that differ."""

from functools import partial

import pytest
import torch
from conftest import rejects
from test_init_algebra import close
from test_inits import DOUBLE, N_IN, RANK, options, site

from runner.config import ConfigError
from runner.config.registry import INITS


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_controls_change_directions_or_norms_alone(name):
    at = site(scale=3.0)
    own = INITS[name].draw(at, directions="own", norms="own")
    turned = INITS[name].draw(site(seed=1, scale=3.0), directions="random", norms="own")
    unit = INITS[name].draw(at, directions="own", norms="unit")
    both = INITS[name].draw(site(seed=2, scale=3.0), directions="random", norms="unit")
    for start in (own, turned):
        close(start.A.norm(dim=1), own.A.norm(dim=1))
        close(start.B.norm(dim=0), own.B.norm(dim=0))
        rejects(close, (1.01 * start.A).norm(dim=1), own.A.norm(dim=1))
    for start in (unit, both):
        for norms in (start.A.norm(dim=1), start.B.norm(dim=0)):
            close(norms, torch.ones(RANK, dtype=DOUBLE))
    for start, of in ((unit, own), (both, turned)):
        cosines = (start.A @ of.A.T).abs().diagonal() / of.A.norm(dim=1)
        (close if start is unit else partial(rejects, close))(cosines, torch.ones(RANK, dtype=DOUBLE))
    close(unit.B * own.B.norm(dim=0), own.B)
    for start in (turned, both):
        rows, columns = (start.A / start.A.norm(dim=1, keepdim=True), start.B / start.B.norm(dim=0))
        close(rows @ rows.T, torch.eye(RANK, dtype=DOUBLE))
        close(columns.T @ columns, torch.eye(RANK, dtype=DOUBLE))
    rejects(close, turned.A, INITS[name].draw(site(seed=3, scale=3.0), directions="random", norms="own").A)


def test_both_readings_of_the_bound_of_init_AB():
    """U(-b, b) with b = m/√n or √(m/n): alike at m = 1, and at m = 4 twice as far apart."""

    def bounds(**changes):
        start = INITS["uniform_AB"].draw(site(), **options("uniform_AB") | changes)
        return torch.stack([start.A.abs().max(), start.B.abs().max()]) * N_IN**0.5

    one = bounds()
    assert ((one > 0.95) & (one <= 1)).all()
    close(bounds(under_root=True), one)
    close(bounds(multiple=4.0), 4 * one, 1e-6)
    close(bounds(multiple=4.0, under_root=True), 2 * one, 1e-6)
    rejects(close, bounds(multiple=4.0), bounds(multiple=4.0, under_root=True), 1e-6)


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_start_without_directions_has_none_of_norm_1(name):
    """As where the frozen weight is 0; random ones there are."""
    at = site()
    at.W0 = torch.zeros_like(at.W0)
    with pytest.raises(ConfigError, match=r"^init\.norms=unit: the start has directions of norm 0"):
        INITS[name].draw(at, directions="own", norms="unit")
    close(INITS[name].draw(at, directions="random", norms="unit").A.norm(dim=1), torch.ones(RANK, dtype=DOUBLE))

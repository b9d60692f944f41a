"""Each init against the distribution that its docstring declares."""

import math

import pytest
import torch
from conftest import rejects

from runner.inits import INITS
from runner.rng import generator

N_OUT, N_IN, RANK = 96, 640, 8

# init -> (side that is drawn, its declared variance, excess kurtosis of its family)
DECLARED = {
    "gaussian_A": ("A", 1 / N_IN, 0.0),
    "gaussian_B": ("B", 1 / RANK, 0.0),
    "kaiming_A": ("A", 1 / (3 * N_IN), -1.2),
    "kaiming_B": ("B", 1 / (3 * RANK), -1.2),
    "zero": (None, 0.0, 0.0),
}


def draw(name: str, seed: int = 0):
    A, B = INITS[name](torch.empty(N_OUT, N_IN), RANK, generator(seed, "init"))
    return {"A": A, "B": B}


def has_moments(x, variance, kurtosis):
    """Mean, variance and kurtosis within 5 standard errors of N draws (variance of the sample variance: (κ + 2)/N)."""
    N = x.numel()
    x = x.double().flatten() / math.sqrt(variance)
    assert abs(x.mean()) < 5 / math.sqrt(N)
    assert abs(x.square().mean() - 1) < 5 * math.sqrt((kurtosis + 2) / N)
    assert abs(x.pow(4).mean() - 3 - kurtosis) < 5 * math.sqrt(96 / N)


def test_every_init_is_declared_here():
    assert DECLARED.keys() == INITS.keys()


@pytest.mark.parametrize("name", DECLARED)
def test_distribution(name):
    side, variance, kurtosis = DECLARED[name]
    factors = draw(name)
    assert factors["A"].shape == (RANK, N_IN) and factors["B"].shape == (N_OUT, RANK)
    for other in {"A", "B"} - {side}:
        assert not factors[other].any(), f"{other} must be zero"
    if side:
        # Many seeds together, so that a scale off by 10% lies more than 5 standard errors away.
        x = torch.cat([draw(name, seed)[side].flatten() for seed in range(20)])
        has_moments(x, variance, kurtosis)
        rejects(has_moments, 1.1 * x, variance, kurtosis)
        rejects(has_moments, x, variance, -1.2 - kurtosis)  # the other family


@pytest.mark.parametrize("name", [name for name in DECLARED if name.startswith("kaiming")])
def test_kaiming_has_the_bound_of_pytorchs_linear_layer(name):
    side, variance, _ = DECLARED[name]
    bound = math.sqrt(3 * variance)
    largest = max(draw(name, seed)[side].abs().max() for seed in range(5))
    assert 0.999 * bound < largest <= bound


def test_seeds_and_streams_are_independent():
    assert torch.equal(draw("gaussian_A")["A"], draw("gaussian_A")["A"])
    assert not torch.equal(draw("gaussian_A", 0)["A"], draw("gaussian_A", 1)["A"])
    first, second = (torch.randn(1000, generator=generator(0, name)) for name in ("init", "data"))
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 5 / math.sqrt(1000)

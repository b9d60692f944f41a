"""Each init against the distribution and the algebra that its docstring declares; those of PEFT against PEFT."""

import math
from functools import cache
from typing import NamedTuple

import pytest
import torch
from conftest import configure, rejects
from models import adapter_of, own

from runner.config.registry import ADAPTERS, INITS
from runner.core.rng import generator
from runner.inits import Calibration, Layer
from runner.training.start import build_adapters
from runner.training.train import build_task

CPU, DOUBLE = torch.device("cpu"), torch.float64
N_OUT, N_IN, RANK = 96, 640, 8


class Row(NamedTuple):
    """What an init declares: variances of A and B (0: zero, None: not drawn entry by entry), the excess kurtosis of their family,
    and whether training starts at the frozen model's output."""

    A: float | None
    B: float | None
    kurtosis: float = 0.0
    starts_at_W0: bool = True


ROWS = {
    "gaussian_A": Row(1 / N_IN, 0),
    "gaussian_B": Row(0, 1 / RANK),
    "gaussian_AB": Row(1 / N_IN, 1 / RANK),
    "uniform_AB": Row(1 / (3 * N_IN), 1 / (3 * N_IN), -1.2),
    "kaiming_A": Row(1 / (3 * N_IN), 0, -1.2),
    "kaiming_B": Row(0, 1 / (3 * RANK), -1.2),
    "peft_gaussian": Row(1 / RANK**2, 0),
    "zero": Row(0, 0),
    "orthogonal": Row(None, None),
    "etf": Row(None, 0),
    "pissa": Row(None, None),
    "milora": Row(None, None),
    "olora": Row(None, None),
    "mica": Row(0, None),
    "loftq": Row(None, None, starts_at_W0=False),
    "eva": Row(None, 0),
    "corda": Row(None, None),
    "lora_ga": Row(None, None),
    "lora_one": Row(None, None, starts_at_W0=False),
    "vera_b0": Row(None, 0),  # of d and b
    "vera_d0": Row(0, 1),
    "pretrained": Row(None, None),  # of W
}


def options(name: str) -> dict:
    """As its YAML file sets them."""
    return configure(f"adapter={adapter_of(name)}", f"init={name}").init.options()


@cache
def layer(shape: tuple[int, int]) -> tuple[torch.Tensor, Calibration]:
    """A weight, and inputs and a gradient of its own."""
    g = torch.Generator().manual_seed(1)
    W0, X, G = (torch.randn(*s, generator=g, dtype=DOUBLE) for s in (shape, (2000, shape[1]), shape))
    X = X * torch.linspace(0.1, 2, shape[1], dtype=DOUBLE) + 0.3
    return W0, Calibration(X.mean(0), X.T @ X / len(X), G)


def site(seed: int = 0, rank: int = RANK, shape: tuple[int, int] = (N_OUT, N_IN), scale: float = 1.0) -> Layer:
    W0, shown = layer(shape)
    return Layer(W0, rank, scale, generator(seed, "init"), shown)


def draw(name: str, seed: int = 0, **changes) -> dict[str, torch.Tensor]:
    return INITS[name].draw(site(seed), **(options(name) | changes)).drawn


def test_every_init_has_a_row_here():
    assert ROWS.keys() == INITS.keys()


# Distributions ------------------------------------------------------------------------------------


def has_moments(x, variance, kurtosis):
    """Mean, variance and kurtosis within 5 standard errors of N draws (variance of the sample variance: (κ + 2)/N)."""
    N = x.numel()
    x = x.double().flatten() / math.sqrt(variance)
    assert abs(x.mean()) < 5 / math.sqrt(N)
    assert abs(x.square().mean() - 1) < 5 * math.sqrt((kurtosis + 2) / N)
    assert abs(x.pow(4).mean() - 3 - kurtosis) < 5 * math.sqrt(96 / N)


@pytest.mark.parametrize("name", ROWS)
def test_distribution(name):
    row, factors = ROWS[name], draw(name)
    if INITS[name].parameters == ("A", "B"):
        assert factors["A"].shape == (RANK, N_IN) and factors["B"].shape == (N_OUT, RANK)
    for side, variance in zip(factors, (row.A, row.B), strict=False):
        if variance == 0:
            assert not factors[side].any(), f"{side} must be zero"
        elif variance:
            # Many seeds together, so that a scale off by 10% lies more than 5 standard errors away.
            x = torch.cat([draw(name, seed)[side].flatten() for seed in range(20)])
            has_moments(x, variance, row.kurtosis)
            rejects(has_moments, 1.1 * x, variance, row.kurtosis)
            rejects(has_moments, x, variance, -1.2 - row.kurtosis)  # the other family
        else:
            assert factors[side].any(), f"{side} must not be zero"


@pytest.mark.parametrize("name", ROWS)
def test_it_declares_what_it_puts_at_zero(name):
    drawn = dict(zip(INITS[name].parameters, draw(name).values(), strict=True))
    assert INITS[name].zero == tuple(part for part, value in drawn.items() if not value.any())


@pytest.mark.parametrize(("choice", "variance"), [("layer", 1 / N_IN), ("rank", 1 / RANK), ("unit", 1.0)])
def test_gaussian_AB_draws_B_as_asked(choice, variance):
    has_moments(
        torch.cat([draw("gaussian_AB", seed, B_variance=choice)["B"].flatten() for seed in range(20)]), variance, 0
    )


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("kaiming")])
def test_kaiming_has_the_bound_of_pytorchs_linear_layer(name):
    variance = ROWS[name].A or ROWS[name].B
    bound = math.sqrt(3 * variance)
    largest = max(max(p.abs().max() for p in draw(name, seed).values()) for seed in range(5))
    assert 0.999 * bound < largest <= bound


def test_seeds_and_streams_are_independent():
    assert torch.equal(draw("gaussian_A")["A"], draw("gaussian_A")["A"])
    assert not torch.equal(draw("gaussian_A", 0)["A"], draw("gaussian_A", 1)["A"])
    first, second = (torch.randn(1000, generator=generator(0, name)) for name in ("init", "data"))
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 5 / math.sqrt(1000)


# Where training starts ----------------------------------------------------------------------------


def outputs(*overrides: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(the frozen layer's outputs, those of the adapted layer at the start) on a toy."""
    config = configure("task.width=48", "task.train_points=60", "dtype=float64", "engine=autograd", *overrides)
    task = build_task([config]).to(CPU, DOUBLE)
    frozen = task.train.y0.clone()
    adapter = build_adapters([config], task, CPU, DOUBLE)["hidden"]
    with torch.no_grad():
        return frozen, adapter(task.train.Z, task.train.y0, task.train.added)[0]


def is_noop(frozen, started):
    assert (frozen - started).abs().max() <= 1e-12 * frozen.abs().max()


STARTS = [(a, n) for a, kind in ADAPTERS.items() for n, i in INITS.items() if set(i.parameters) <= kind.sides.keys()]


@pytest.mark.parametrize(("adapter", "name"), STARTS, ids=str)
def test_training_starts_at_the_frozen_models_output_or_does_not(adapter, name):
    """To rounding: B·A = 0, or a product that is taken from the frozen weight."""
    found = outputs(*own(adapter, alpha=6), f"init={name}")
    is_noop(*found) if ROWS[name].starts_at_W0 else rejects(is_noop, *found)


def test_a_random_product_that_is_not_subtracted_moves_the_start():
    is_noop(*outputs("init=gaussian_AB", "init.subtract=true"))
    rejects(is_noop, *outputs("init=gaussian_AB", "init.subtract=false"))


def test_scale_multiplies_both_factors_and_their_offset():
    for name in ("pissa", "gaussian_A"):
        config = configure("task.width=48", f"init={name}", "init.scale=2")
        one, two = (
            build_adapters([c], build_task([config]), CPU, DOUBLE)["hidden"]
            for c in (configure("task.width=48", f"init={name}"), config)
        )
        for p, q in zip(one.parameters.values(), two.parameters.values(), strict=True):
            torch.testing.assert_close(q, 2 * p)
    is_noop(*outputs("init=pissa", "init.scale=2"))

"""Initializations that are drawn, without a look at weights or data. Draws are float32, on the CPU."""

from dataclasses import dataclass

import torch

from runner.config.options import POSITIVE, SWITCH, Switch, choices, option
from runner.config.schema import InitOptions
from runner.core.rng import normal, orthonormal, uniform
from runner.inits.base import Layer, Start, init


@init(zero=("B",))
def gaussian_A(layer: Layer) -> Start:
    """Init[A]: A_ij ~ N(0, 1/n_in), B = 0 (Hayou, Ghosh, Yu 2024)."""
    n_out, n_in = layer.W0.shape
    return Start(normal(layer.rank, n_in, variance=1 / n_in, generator=layer.generator), torch.zeros(n_out, layer.rank))


@init(zero=("A",))
def gaussian_B(layer: Layer) -> Start:
    """Init[B]: A = 0, B_ij ~ N(0, 1/r) (Hayou, Ghosh, Yu 2024)."""
    n_out, n_in = layer.W0.shape
    return Start(
        torch.zeros(layer.rank, n_in), normal(n_out, layer.rank, variance=1 / layer.rank, generator=layer.generator)
    )


@dataclass
class GaussianABOptions(InitOptions):
    subtract: Switch = option("whether the frozen weight is W0 - s·B·A, so that training starts at W0", SWITCH)
    B_variance: str = option("of B's entries: 1/n_in as A's, 1/r as Init[B]'s, or 1", choices("layer", "rank", "unit"))


@init(GaussianABOptions, residual=lambda options: options.subtract)
def gaussian_AB(layer: Layer, subtract: bool, B_variance: str) -> Start:
    """Init[AB]: A_ij ~ N(0, 1/n_in) and B_ij ~ N(0, v), both at random (Li et al. 2025, arXiv 2505.23194).

    v = 1/n_in for B_variance=layer (the fan-in of the layer for both factors, as a public port draws them), 1/r for rank (as
    Init[B]), 1 for unit (the nonlinear toy of LoRA+). `subtract`: the frozen weight is W0 - s·B·A.
    """
    n_out, n_in = layer.W0.shape
    variance = {"layer": 1 / n_in, "rank": 1 / layer.rank, "unit": 1.0}[B_variance]
    A = normal(layer.rank, n_in, variance=1 / n_in, generator=layer.generator)
    return Start(A, normal(n_out, layer.rank, variance=variance, generator=layer.generator))


@dataclass
class UniformABOptions(InitOptions):
    subtract: Switch = option("whether the frozen weight is W0 - s·B·A, so that training starts at W0", SWITCH)
    multiple: float = option("m of the bound of both factors", POSITIVE)
    under_root: Switch = option("whether the bound is √(m/n_in), and not m/√n_in", SWITCH)


@init(UniformABOptions, residual=lambda options: options.subtract)
def uniform_AB(layer: Layer, subtract: bool, multiple: float, under_root: bool) -> Start:
    """Init[AB] as two public ports draw it: A_ij, B_ij ~ U(-b, b) with b = m/√n_in, or, `under_root`, √(m/n_in); n_in is that of
    the layer for both factors (Li et al. 2025, arXiv 2505.23194). `subtract`: the frozen weight is W0 - s·B·A."""
    n_out, n_in = layer.W0.shape
    variance = (multiple if under_root else multiple**2) / (3 * n_in)
    A = uniform(layer.rank, n_in, variance=variance, generator=layer.generator)
    return Start(A, uniform(n_out, layer.rank, variance=variance, generator=layer.generator))


@init(zero=("B",))
def kaiming_A(layer: Layer) -> Start:
    """PEFT's default: A_ij ~ U(-1/√n_in, 1/√n_in), so of variance 1/(3 n_in); B = 0."""
    n_out, n_in = layer.W0.shape
    return Start(
        uniform(layer.rank, n_in, variance=1 / (3 * n_in), generator=layer.generator), torch.zeros(n_out, layer.rank)
    )


@init(zero=("A",))
def kaiming_B(layer: Layer) -> Start:
    """Mirror image of PEFT's default: A = 0; B_ij ~ U(-1/√r, 1/√r), so of variance 1/(3 r)."""
    n_out, n_in = layer.W0.shape
    B = uniform(n_out, layer.rank, variance=1 / (3 * layer.rank), generator=layer.generator)
    return Start(torch.zeros(layer.rank, n_in), B)


@init(zero=("B",))
def peft_gaussian(layer: Layer) -> Start:
    """PEFT's `gaussian`, diffusers' default: A_ij ~ N(0, 1/r²), whatever the width; B = 0."""
    n_out, n_in = layer.W0.shape
    return Start(
        normal(layer.rank, n_in, variance=1 / layer.rank**2, generator=layer.generator), torch.zeros(n_out, layer.rank)
    )


@init(zero=("A", "B"))
def zero(layer: Layer) -> Start:
    """A = 0 and B = 0, the control: both gradients vanish and nothing trains."""
    n_out, n_in = layer.W0.shape
    return Start(torch.zeros(layer.rank, n_in), torch.zeros(n_out, layer.rank))


@init(unsupported=lambda rank, shape, options: f"takes an even rank; {rank + 1} is one" if rank % 2 else None)
def orthogonal(layer: Layer) -> Start:
    """A = (G1·Q_odd)ᵀ/10 and B = G2ᵀ·Q_even/10: neither is zero, and B·A = 0 (datta0's blog, as in PEFT).

    Q (r, r) is orthogonal, of which each factor takes every other row (r/2, r); G1 (n_in, r/2), G2 (r/2, n_out) ~ N(0, 1),
    whatever the width. So A_ij and B_ij have variance 1/200.
    """
    n_out, n_in = layer.W0.shape
    half, g = layer.rank // 2, layer.generator
    Q = orthonormal(layer.rank, layer.rank, generator=g)
    G1, G2 = normal(n_in, half, variance=1, generator=g), normal(half, n_out, variance=1, generator=g)
    return Start((G1.double() @ Q[0::2]).T / 10, G2.double().T @ Q[1::2] / 10)


@dataclass
class VeraB0Options(InitOptions):
    d_initial: float = option("every entry of d", POSITIVE)


@init(VeraB0Options, parameters=("d", "b"), zero=("b",))
def vera_b0(layer: Layer, d_initial: float) -> Start:
    """VeRA's own start: d = d_initial (0.1), b = 0. The zero lies on the output side, as in Init[A]: ∂L/∂d = 0 at first."""
    return Start(torch.full((layer.rank,), d_initial), torch.zeros(len(layer.W0)))


@dataclass
class VeraD0Options(InitOptions):
    b_std: float = option("standard deviation of b's entries", POSITIVE)


@init(VeraD0Options, parameters=("d", "b"), zero=("d",))
def vera_d0(layer: Layer, b_std: float) -> Start:
    """Its mirror image: d = 0, b_i ~ N(0, b_std²). The zero lies on the input side, as in Init[B]: ∂L/∂b = 0 at first."""
    return Start(torch.zeros(layer.rank), normal(len(layer.W0), variance=b_std**2, generator=layer.generator))

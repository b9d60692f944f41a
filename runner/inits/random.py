"""Initializations that are drawn, without a look at weights or data. Draws are float32, on the CPU."""

import torch

from runner.inits.site import Site, Start, init
from runner.rng import normal, uniform


@init()
def gaussian_A(at: Site) -> Start:
    """Init[A]: A_ij ~ N(0, 1/n_in), B = 0 (Hayou, Ghosh, Yu 2024)."""
    n_out, n_in = at.W0.shape
    return Start(normal(at.rank, n_in, variance=1 / n_in, generator=at.generator), torch.zeros(n_out, at.rank))


@init()
def gaussian_B(at: Site) -> Start:
    """Init[B]: A = 0, B_ij ~ N(0, 1/r) (Hayou, Ghosh, Yu 2024)."""
    n_out, n_in = at.W0.shape
    return Start(torch.zeros(at.rank, n_in), normal(n_out, at.rank, variance=1 / at.rank, generator=at.generator))


@init(residual=lambda options: options.subtract)
def gaussian_AB(at: Site, subtract: bool, B_variance: str) -> Start:
    """Init[AB]: A_ij ~ N(0, 1/n_in) and B_ij ~ N(0, v), both at random (Li et al. 2025, arXiv 2505.23194).

    v = 1/n_in for B_variance=layer (the fan-in of the layer for both factors, as a public port draws them), 1/r for rank (as
    Init[B]), 1 for unit (the nonlinear toy of LoRA+). `subtract`: the frozen weight is W0 - s·B·A.
    """
    n_out, n_in = at.W0.shape
    variance = {"layer": 1 / n_in, "rank": 1 / at.rank, "unit": 1.0}[B_variance]
    A = normal(at.rank, n_in, variance=1 / n_in, generator=at.generator)
    return Start(A, normal(n_out, at.rank, variance=variance, generator=at.generator))


@init()
def kaiming_A(at: Site) -> Start:
    """PEFT's default: A_ij ~ U(-1/√n_in, 1/√n_in), so of variance 1/(3 n_in); B = 0."""
    n_out, n_in = at.W0.shape
    return Start(uniform(at.rank, n_in, variance=1 / (3 * n_in), generator=at.generator), torch.zeros(n_out, at.rank))


@init()
def kaiming_B(at: Site) -> Start:
    """Mirror image of PEFT's default: A = 0; B_ij ~ U(-1/√r, 1/√r), so of variance 1/(3 r)."""
    n_out, n_in = at.W0.shape
    B = uniform(n_out, at.rank, variance=1 / (3 * at.rank), generator=at.generator)
    return Start(torch.zeros(at.rank, n_in), B)


@init()
def peft_gaussian(at: Site) -> Start:
    """PEFT's `gaussian`, diffusers' default: A_ij ~ N(0, 1/r²), whatever the width; B = 0."""
    n_out, n_in = at.W0.shape
    return Start(normal(at.rank, n_in, variance=1 / at.rank**2, generator=at.generator), torch.zeros(n_out, at.rank))


@init()
def zero(at: Site) -> Start:
    """A = 0 and B = 0, the control: both gradients vanish and nothing trains."""
    n_out, n_in = at.W0.shape
    return Start(torch.zeros(at.rank, n_in), torch.zeros(n_out, at.rank))


@init(refuses=lambda rank, shape, options: f"takes an even rank; {rank + 1} is one" if rank % 2 else None)
def orthogonal(at: Site) -> Start:
    """A = (G1·Q_odd)ᵀ/10 and B = G2ᵀ·Q_even/10: neither is zero, and B·A = 0 (datta0's blog, as in PEFT).

    Q (r, r) is orthogonal, of which each factor takes every other row (r/2, r); G1 (n_in, r/2), G2 (r/2, n_out) ~ N(0, 1),
    whatever the width. So A_ij and B_ij have variance 1/200.
    """
    n_out, n_in = at.W0.shape
    half, g = at.rank // 2, at.generator
    Q, _ = torch.linalg.qr(normal(at.rank, at.rank, variance=1, generator=g).double())
    G1, G2 = normal(n_in, half, variance=1, generator=g), normal(half, n_out, variance=1, generator=g)
    return Start((G1.double() @ Q[0::2]).T / 10, G2.double().T @ Q[1::2] / 10)


@init(gives=("d", "b"))
def vera_b0(at: Site, d_initial: float) -> Start:
    """VeRA's own start: d = d_initial (0.1), b = 0. The zero lies on the output side, as in Init[A]: ∂L/∂d = 0 at first."""
    return Start(torch.full((at.rank,), d_initial), torch.zeros(len(at.W0)))


@init(gives=("d", "b"))
def vera_d0(at: Site, b_std: float) -> Start:
    """Its mirror image: d = 0, b_i ~ N(0, b_std²). The zero lies on the input side, as in Init[B]: ∂L/∂b = 0 at first."""
    return Start(torch.zeros(at.rank), normal(len(at.W0), variance=b_std**2, generator=at.generator))

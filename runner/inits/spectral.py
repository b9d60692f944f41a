"""Initializations that look at the frozen weight W0 = U·diag(S)·Vᵀ."""

import torch
from torch import Tensor

from runner.inits.site import Site, Start, always, init


@init(residual=always)
def pissa(at: Site) -> Start:
    """The r largest singular triplets: B = U_r·√(S_r/s), A = √(S_r/s)·V_rᵀ; the frozen weight is W0 - s·B·A (Meng, Wang, Zhang
    2024, arXiv 2404.02948; the division by s as in PEFT)."""
    return _triplets(at, slice(None, at.rank))


@init(residual=always)
def milora(at: Site) -> Start:
    """As pissa, with the r smallest singular triplets (Wang et al. 2024, arXiv 2406.09044)."""
    return _triplets(at, slice(-at.rank, None))


def _triplets(at: Site, which: slice) -> Start:
    U, S, Vh = at.svd()
    root = (S[which] / at.scale).sqrt()
    return Start(root[:, None] * Vh[which], U[:, which] * root)


@init(residual=always)
def olora(at: Site) -> Start:
    """W0 = Q·R: B = the first r columns of Q, A = the first r rows of R; the frozen weight is W0 - s·B·A (Büyükakyüz 2024, arXiv
    2406.01775; as in PEFT, B·A is not divided by s)."""
    Q, R = at.once("qr of W0", lambda: torch.linalg.qr(at.W0))
    return Start(R[: at.rank], Q[:, : at.rank])


@init()
def mica(at: Site) -> Start:
    """B = the left singular vectors of the r smallest singular values, frozen; A = 0 trains (arXiv 2604.01694, as in PEFT)."""
    U, _, _ = at.svd()
    return Start(torch.zeros(at.rank, at.W0.shape[1]), U[:, -at.rank :], frozen=("B",))


@init(replaces=True)
def loftq(at: Site, iterations: int, block: int) -> Start:
    """For a base quantized to nf4: T times Q = nf4(W0 - s·B·A), then s·B·A = the best rank-r approximation of W0 - Q, its
    singular values split evenly; the base becomes Q, in simulation: rounded, but stored as it was (Li et al. 2023, arXiv
    2310.08659).

    PEFT does not divide by s, so that its start is off where s ≠ 1; here Q + s·B·A approximates W0 for every s.
    """
    r = at.rank

    def alternate() -> tuple[Tensor, Tensor, Tensor]:
        product = torch.zeros_like(at.W0)
        for _ in range(iterations):
            base = nf4(at.W0 - product, block)
            U, S, Vh = torch.linalg.svd(at.W0 - base, full_matrices=False)
            root = S[:r].sqrt()
            A, B = root[:, None] * Vh[:r], U[:, :r] * root
            product = B @ A
        return A, B, base

    A, B, base = at.once(("loftq", r, iterations, block), alternate)
    return Start(A / at.scale**0.5, B / at.scale**0.5, base=base)


# Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (Dettmers et al. 2023, QLoRA, arXiv 2305.14314).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def nf4(W: Tensor, block: int) -> Tensor:
    """W rounded to 4-bit NormalFloat: row by row, each block of entries to the nearest of NF4 times its largest magnitude."""
    flat = torch.nn.functional.pad(W.flatten(), (0, -W.numel() % block)).view(-1, block)
    largest = flat.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4, dtype=W.dtype)
    middles = (levels[1:] + levels[:-1]) / 2
    rounded = levels[torch.bucketize(flat / largest.clamp_min(torch.finfo(W.dtype).tiny), middles)] * largest
    return rounded.flatten()[: W.numel()].view_as(W)

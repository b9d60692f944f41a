"""Initializations that look at the frozen weight W0 = U·diag(S)·Vᵀ, and the one that is that weight."""

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.config.options import SIZE, Allowed, ConfigError, choices, integers, option
from runner.config.schema import InitOptions
from runner.core.rng import orthonormal
from runner.inits.base import Layer, Start, always, init


@dataclass
class PretrainedOptions(InitOptions):
    scale: float = option(
        "there is nothing to multiply", Allowed("1, as the weight starts where it is", lambda x: x == 1), default=1.0
    )


@init(PretrainedOptions, parameters=("W",))
def pretrained(layer: Layer) -> Start:
    """Full finetuning: W = W0, and nothing is drawn."""
    return Start(W=layer.W0)


@dataclass
class ControlledOptions(InitOptions):
    """Of inits that differ from LoRA in two things at once, in which way B·A points and how large it is."""

    directions: str = option(
        "of A's rows and B's columns: the init's own, or orthonormal ones at random",
        choices("own", "random"),
        before="own",
    )
    norms: str = option(
        "of A's rows and B's columns: the init's own, or 1, as A's of LoRA in the mean",
        choices("own", "unit"),
        before="own",
    )


@init(ControlledOptions, residual=always)
def pissa(layer: Layer, directions: str, norms: str) -> Start:
    """The r largest singular triplets: B = U_r·√(S_r/s), A = √(S_r/s)·V_rᵀ; the frozen weight is W0 - s·B·A (Meng, Wang, Zhang
    2024, arXiv 2404.02948; the division by s as in PEFT).

    `directions` and `norms`: controls of whether its directions or its size make the difference (LoRAM, arXiv 2507.06558).
    """
    return _controlled(_triplets(layer, slice(None, layer.rank)), layer, directions, norms)


@init(residual=always)
def milora(layer: Layer) -> Start:
    """As pissa, with the r smallest singular triplets (Wang et al. 2024, arXiv 2406.09044)."""
    return _triplets(layer, slice(-layer.rank, None))


def _triplets(layer: Layer, which: slice) -> Start:
    U, S, Vh = layer.svd()
    root = (S[which] / layer.scale).sqrt()
    return Start(root[:, None] * Vh[which], U[:, which] * root)


@init(ControlledOptions, residual=always)
def olora(layer: Layer, directions: str, norms: str) -> Start:
    """W0 = Q·R: B = the first r columns of Q, A = the first r rows of R; the frozen weight is W0 - s·B·A (Büyükakyüz 2024, arXiv
    2406.01775; as in PEFT, B·A is not divided by s). `directions`, `norms`: controls, as pissa's."""
    Q, R = layer.cached("qr of W0", lambda: torch.linalg.qr(layer.W0))
    return _controlled(Start(R[: layer.rank], Q[:, : layer.rank]), layer, directions, norms)


def _controlled(start: Start, layer: Layer, directions: str, norms: str) -> Start:
    """With the start's norms of A's rows and B's columns, or 1, and its directions, or orthonormal ones in Haar's measure."""
    of_rows, of_columns = start.A.norm(dim=1, keepdim=True), start.B.norm(dim=0)
    if directions == "random":
        n_out, n_in = layer.W0.shape
        A = orthonormal(n_in, layer.rank, generator=layer.generator).T.to(start.A)
        B = orthonormal(n_out, layer.rank, generator=layer.generator).to(start.B)
    elif norms == "own":
        return start
    elif (of_rows == 0).any() or (of_columns == 0).any():
        raise ConfigError(
            "init.norms=unit: the start has directions of norm 0, as where the frozen weight is 0; use own"
        )
    else:
        A, B = start.A / of_rows, start.B / of_columns
    return Start(A, B) if norms == "unit" else Start(of_rows * A, of_columns * B)


@init(zero=("A",))
def mica(layer: Layer) -> Start:
    """B = the left singular vectors of the r smallest singular values, frozen; A = 0 trains (arXiv 2604.01694, as in PEFT)."""
    U, _, _ = layer.svd()
    return Start(torch.zeros(layer.rank, layer.W0.shape[1]), U[:, -layer.rank :], frozen=("B",))


@dataclass
class LoftQOptions(InitOptions):
    iterations: int = option("T of the paper", integers(1, 100))
    block: int = option("entries that share a scale", SIZE)


@init(LoftQOptions, replaces=True)
def loftq(layer: Layer, iterations: int, block: int) -> Start:
    """For a base quantized to nf4: T times Q = nf4(W0 - s·B·A), then s·B·A = the best rank-r approximation of W0 - Q, its
    singular values split evenly; the base becomes Q, in simulation: rounded, but stored as it was (Li et al. 2023, arXiv
    2310.08659).

    PEFT does not divide by s, so that its start is off where s ≠ 1; here Q + s·B·A approximates W0 for every s.
    """
    r = layer.rank

    def alternate() -> tuple[Tensor, Tensor, Tensor]:
        product = torch.zeros_like(layer.W0)
        for _ in range(iterations):
            base = nf4(layer.W0 - product, block)
            U, S, Vh = torch.linalg.svd(layer.W0 - base, full_matrices=False)
            root = S[:r].sqrt()
            A, B = root[:, None] * Vh[:r], U[:, :r] * root
            product = B @ A
        return A, B, base

    A, B, base = layer.cached(("loftq", r, iterations, block), alternate)
    return Start(A / layer.scale**0.5, B / layer.scale**0.5, base=base)


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

"""Initializations that look at data: at what a layer of the frozen model reads, or at the gradient of its weight.

Statistics are taken over `init.examples` training examples, once for all runs of a stack.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.config.options import POSITIVE, SIZE, Allowed, ConfigError, choices, option
from runner.config.schema import InitOptions
from runner.inits.base import Calibration, Layer, Start, always, init


@dataclass
class DataOptions(InitOptions):
    """What inits that look at data share."""

    examples: int = option(
        "training examples (sequences, on models) for statistics of the frozen model, evenly spaced; all, if there are fewer",
        SIZE,
    )


@dataclass
class EVAOptions(DataOptions):
    rho: float = option(
        "most ranks of a layer, in multiples of the rank; 1 gives every layer the same",
        Allowed("a number from 1 to 1000", lambda x: 1 <= x <= 1000),
    )


@dataclass
class CorDAOptions(DataOptions):
    mode: str = option(
        "ipm: the r first, adapting what the data use; kpm: the r last, keeping it", choices("ipm", "kpm")
    )
    damping: float = option("of C, in multiples of its mean diagonal", POSITIVE)


@dataclass
class LoRAOneOptions(DataOptions):
    gamma: float = option("divides both factors by its square root", POSITIVE)


@dataclass
class LoRAGAOptions(LoRAOneOptions):
    rule: str = option("authors: as in their code; peft: B also times its singular values", choices("authors", "peft"))


def _ranks(calibration: dict[str, Calibration], rank: int, options: Any) -> dict[str, int]:
    """EVA's: the budget of `rank` a layer goes to the components that explain most of their layer's variance, with at most
    rho·rank in a layer."""
    most = max(1, round(rank * options.rho))
    shares = []
    for layer, of in calibration.items():
        variances, _ = _principal(of)
        variances = variances.clamp_min(0)
        shares += [(float(share), layer) for share in (variances / variances.sum())[:most]]
    shares.sort(key=lambda pair: -pair[0])
    ranks = dict.fromkeys(calibration, 0)
    for _, layer in shares[: rank * len(calibration)]:
        ranks[layer] += 1
    return ranks


@init(EVAOptions, needs="inputs", ranks=_ranks, zero=("B",))
def eva(layer: Layer, rho: float) -> Start:
    """A = the r first principal directions of what the layer reads, B = 0 (Paischer et al. 2024, arXiv 2410.07170).

    Ranks are spread over the layers by explained variance, up to rho·r in a layer, and a layer may get none; s stays that of the
    rank asked for. PEFT finds the same directions by incremental PCA on batches; like there, the mean is subtracted.
    """
    n_out, n_in = layer.W0.shape
    if not layer.rank:
        return Start(torch.zeros(1, n_in), torch.zeros(n_out, 1), frozen=("A", "B"))
    _, directions = layer.cached("eva", lambda: _principal(layer.calibration))
    return Start(directions[: layer.rank].to(layer.W0.dtype), torch.zeros(n_out, layer.rank))


def _principal(seen: Calibration) -> tuple[Tensor, Tensor]:
    """Variances, falling, and directions (rows) of the covariance E[x·xᵀ] - x̄·x̄ᵀ."""
    variances, vectors = torch.linalg.eigh(seen.moment - torch.outer(seen.mean, seen.mean))
    return variances.flip(0), vectors.T.flip(0)


@init(CorDAOptions, needs="inputs", residual=always)
def corda(layer: Layer, mode: str, damping: float) -> Start:
    """W0·C = U·diag(S)·Vᵀ with C = mean of x·xᵀ: B = U_k·√(S_k/s), A = √(S_k/s)·V_kᵀ·C⁻¹, frozen weight W0 - s·B·A (Yang et al.
    2024, arXiv 2406.05223).

    k: the r first triplets for mode=ipm (adapt what the data use), the r last for mode=kpm (keep what they use). C gets
    `damping` times its mean diagonal added to its own, twice as much again until it is invertible to 0.05, as in PEFT.
    """

    def factors() -> tuple[Tensor, Tensor, Tensor]:
        C = layer.calibration.moment
        if not C.diagonal().mean() > 0 or not C.isfinite().all():
            raise ConfigError(
                "init=corda: a layer reads nothing but zeros, or numbers that are not finite, in the training examples; "
                "raise init.examples or choose another init"
            )
        eye, amount = torch.eye(len(C), dtype=C.dtype), damping
        while True:
            damped = C + amount * C.diagonal().mean() * eye
            inverse, singular = torch.linalg.inv_ex(damped)
            if not singular and torch.dist(damped @ inverse, eye) < 0.05:
                break
            amount *= 2
        U, S, Vh = torch.linalg.svd(layer.W0.to(C.dtype) @ damped, full_matrices=False)
        return U, S, Vh @ inverse

    U, S, VhC = layer.cached(("corda", damping), factors)
    which = slice(None, layer.rank) if mode == "ipm" else slice(-layer.rank, None)
    root = (S[which] / layer.scale).sqrt()
    return Start((root[:, None] * VhC[which]).to(layer.W0.dtype), (U[:, which] * root).to(layer.W0.dtype))


def _gradient_svd(layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    return layer.cached("svd of G", lambda: torch.linalg.svd(layer.calibration.gradient, full_matrices=False))


def _twice(rank: int, shape: tuple[int, int], options: Any) -> str | None:
    if 2 * rank > min(shape):
        return f"takes 2r singular vectors of the gradient, so a rank of up to {min(shape) // 2}"
    return None


@init(LoRAGAOptions, needs="gradient", residual=always, unsupported=_twice)
def lora_ga(layer: Layer, gamma: float, rule: str) -> Start:
    """G = U·diag(S)·Vᵀ: A from V_rᵀ, B from the next r columns of U; the frozen weight is W0 - s·B·A (Wang, Yu, Li 2024, arXiv
    2407.05000).

    rule=authors, as in their code: both times n_out^¼/√γ. rule=peft: B also times diag(S) of its columns, and n_out^¼/√γ for B
    alone. The subspaces are the same, the sizes are not. γ = 16. Where G has a rank below 2r, B's columns are any that are left.
    """
    U, S, Vh = _gradient_svd(layer)
    r, size = layer.rank, len(layer.W0) ** 0.25 / gamma**0.5
    A, B = Vh[:r], U[:, r : 2 * r]
    if rule == "peft":
        return Start(A.to(layer.W0.dtype), (B * S[r : 2 * r] * size).to(layer.W0.dtype))
    return Start((A * size).to(layer.W0.dtype), (B * size).to(layer.W0.dtype))


@init(LoRAOneOptions, needs="gradient")
def lora_one(layer: Layer, gamma: float) -> Start:
    """-G = U·diag(S)·Vᵀ: B = U_r·√(S_r/S_1)/√γ, A = √(S_r/S_1)·V_rᵀ/√γ, γ = 128 (Zhang et al. 2025, arXiv 2502.01235).

    As in the authors' code; their text has U_r·S_r and S_r·V_rᵀ, times 1/√γ. Nothing is subtracted from W0: the start is a step
    along -G. They use s = alpha/√r (adapter=rslora).
    """
    U, S, Vh = _gradient_svd(layer)
    root = (S[: layer.rank] / S[0].clamp_min(torch.finfo(S.dtype).tiny) / gamma).sqrt()
    return Start((root[:, None] * Vh[: layer.rank]).to(layer.W0.dtype), (-U[:, : layer.rank] * root).to(layer.W0.dtype))

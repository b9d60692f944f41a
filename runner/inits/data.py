"""Initializations that look at data: at what a layer of the frozen model reads, or at the gradient of its weight.

`init.examples` training examples are shown to the frozen model, once for all runs of a stack.
"""

from typing import Any

import torch
from torch import Tensor

from runner.inits.site import Shown, Site, Start, always, init
from runner.schema import ConfigError


def _ranks(shown: dict[str, Shown], rank: int, options: Any) -> dict[str, int]:
    """EVA's: the budget of `rank` a layer goes to the components that explain most of their layer's variance, with at most
    rho·rank in a layer."""
    most = max(1, round(rank * options.rho))
    shares = []
    for layer, of in shown.items():
        variances, _ = _principal(of)
        variances = variances.clamp_min(0)
        shares += [(float(share), layer) for share in (variances / variances.sum())[:most]]
    shares.sort(key=lambda pair: -pair[0])
    ranks = dict.fromkeys(shown, 0)
    for _, layer in shares[: rank * len(shown)]:
        ranks[layer] += 1
    return ranks


@init(needs="inputs", ranks=_ranks)
def eva(at: Site, rho: float) -> Start:
    """A = the r first principal directions of what the layer reads, B = 0 (Paischer et al. 2024, arXiv 2410.07170).

    Ranks are spread over the layers by explained variance, up to rho·r in a layer, and a layer may get none; s stays that of the
    rank asked for. PEFT finds the same directions by incremental PCA on batches; like there, the mean is subtracted.
    """
    n_out, n_in = at.W0.shape
    if not at.rank:
        return Start(torch.zeros(1, n_in), torch.zeros(n_out, 1), frozen=("A", "B"))
    _, directions = at.once("eva", lambda: _principal(at.shown))
    return Start(directions[: at.rank].to(at.W0.dtype), torch.zeros(n_out, at.rank))


def _principal(shown: Shown) -> tuple[Tensor, Tensor]:
    """Variances, falling, and directions (rows) of the covariance E[x·xᵀ] - x̄·x̄ᵀ."""
    variances, vectors = torch.linalg.eigh(shown.moment - torch.outer(shown.mean, shown.mean))
    return variances.flip(0), vectors.T.flip(0)


@init(needs="inputs", residual=always)
def corda(at: Site, mode: str, damping: float) -> Start:
    """W0·C = U·diag(S)·Vᵀ with C = mean of x·xᵀ: B = U_k·√(S_k/s), A = √(S_k/s)·V_kᵀ·C⁻¹, frozen weight W0 - s·B·A (Yang et al.
    2024, arXiv 2406.05223).

    k: the r first triplets for mode=ipm (adapt what the data use), the r last for mode=kpm (keep what they use). C gets
    `damping` times its mean diagonal added to its own, twice as much again until it is invertible to 0.05, as in PEFT.
    """

    def factors() -> tuple[Tensor, Tensor, Tensor]:
        C = at.shown.moment
        if not C.diagonal().mean() > 0 or not C.isfinite().all():
            raise ConfigError(
                "init=corda: a layer reads nothing but zeros, or numbers that are not finite, in the examples that it is shown; "
                "raise init.examples or choose another init"
            )
        eye, amount = torch.eye(len(C), dtype=C.dtype), damping
        while True:
            damped = C + amount * C.diagonal().mean() * eye
            inverse, singular = torch.linalg.inv_ex(damped)
            if not singular and torch.dist(damped @ inverse, eye) < 0.05:
                break
            amount *= 2
        U, S, Vh = torch.linalg.svd(at.W0.to(C.dtype) @ damped, full_matrices=False)
        return U, S, Vh @ inverse

    U, S, VhC = at.once(("corda", damping), factors)
    which = slice(None, at.rank) if mode == "ipm" else slice(-at.rank, None)
    root = (S[which] / at.scale).sqrt()
    return Start((root[:, None] * VhC[which]).to(at.W0.dtype), (U[:, which] * root).to(at.W0.dtype))


def _gradient_svd(at: Site) -> tuple[Tensor, Tensor, Tensor]:
    return at.once("svd of G", lambda: torch.linalg.svd(at.shown.gradient, full_matrices=False))


def _twice(rank: int, shape: tuple[int, int], options: Any) -> str | None:
    if 2 * rank > min(shape):
        return f"takes 2r singular vectors of the gradient, so a rank of up to {min(shape) // 2}"
    return None


@init(needs="gradient", residual=always, refuses=_twice)
def lora_ga(at: Site, gamma: float, rule: str) -> Start:
    """G = U·diag(S)·Vᵀ: A from V_rᵀ, B from the next r columns of U; the frozen weight is W0 - s·B·A (Wang, Yu, Li 2024, arXiv
    2407.05000).

    rule=authors, as in their code: both times n_out^¼/√γ. rule=peft: B also times diag(S) of its columns, and n_out^¼/√γ for B
    alone. The subspaces are the same, the sizes are not. γ = 16. Where G has a rank below 2r, B's columns are any that are left.
    """
    U, S, Vh = _gradient_svd(at)
    r, size = at.rank, len(at.W0) ** 0.25 / gamma**0.5
    A, B = Vh[:r], U[:, r : 2 * r]
    if rule == "peft":
        return Start(A.to(at.W0.dtype), (B * S[r : 2 * r] * size).to(at.W0.dtype))
    return Start((A * size).to(at.W0.dtype), (B * size).to(at.W0.dtype))


@init(needs="gradient")
def lora_one(at: Site, gamma: float) -> Start:
    """-G = U·diag(S)·Vᵀ: B = U_r·√(S_r/S_1)/√γ, A = √(S_r/S_1)·V_rᵀ/√γ, γ = 128 (Zhang et al. 2025, arXiv 2502.01235).

    As in the authors' code; their text has U_r·S_r and S_r·V_rᵀ, times 1/√γ. Nothing is subtracted from W0: the start is a step
    along -G. They use s = alpha/√r (adapter=rslora).
    """
    U, S, Vh = _gradient_svd(at)
    root = (S[: at.rank] / S[0].clamp_min(torch.finfo(S.dtype).tiny) / gamma).sqrt()
    return Start((root[:, None] * Vh[: at.rank]).to(at.W0.dtype), (-U[:, : at.rank] * root).to(at.W0.dtype))

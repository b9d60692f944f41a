"""Adam for the product of two factors: what it does to B·A does not depend on how that is split into B and A."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.config.options import FRACTION, POSITIVE, option
from runner.core.exact import sqrt_
from runner.core.gram import eigen, eye, gram, inverse_root, of_eigenvalues, small_product, together
from runner.training.optimizers.base import CommonOptions, Optimizer, optimizer, per_run
from runner.training.optimizers.pairs import in_rows, others


@dataclass
class LoRARITEOptions(CommonOptions):
    beta1: float = option("decay of the mean of preconditioned gradients", FRACTION, per_run=True)
    beta2: float = option("decay of the mean of their second moments", FRACTION, per_run=True)
    eps: float = option("added to the roots of these moments' eigenvalues", POSITIVE, per_run=True)


@optimizer("lora_rite", LoRARITEOptions)
class LoRARITE(Optimizer):
    """LoRA-RITE (Yen et al. 2024, arXiv 2410.20625). Of A with the other factor B, and likewise of Bᵀ with Aᵀ:

    R = (BᵀB)^-1/2,  U = B·R,  ḡ = R·g_A,  P = UᵀU⁻,
    ρ ← β2·(ρ + max_i (λ_i(V) - λ_i(P·V·Pᵀ))),  V ← β2·P·V·Pᵀ + (1-β2)·ḡ·ḡᵀ/n_in,
    M ← β1·P·M + (1-β1)·((V + ρI)^1/2 + εI)^-1·ḡ,  A ← (1 - lr·λ) A - lr·R·M.

    U⁻ is of the step before; each β at step t is β·(1 - β^(t-1))/(1 - β^t), in place of a correction of what starts at zero. A
    factor at zero has R = 0: the other one does not move. Parameters come by layers, A before B. Of the
    authors' code the clipping and skipping of gradients are left out, and ρ, which it leaves out unless told, is in.
    """

    of_pairs = True

    def __init__(self, parameters: Sequence[Tensor], **hyperparameters: Tensor):
        super().__init__(parameters, **hyperparameters)
        self.factors = in_rows(parameters)
        self.U, self.M = (
            [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in self.factors] for _ in "UM"
        )
        self.V = [torch.zeros_like(gram(p)) for p in self.factors]
        self.rho = [torch.zeros_like(self.beta1) for _ in parameters]
        self.power1, self.power2 = torch.ones_like(self.beta1), torch.ones_like(self.beta2)  # β1^t, β2^t

    @property
    def state(self) -> dict[str, Tensor]:
        own = {"U": self.U, "M": self.M, "V": self.V, "rho": self.rho}
        tensors = {f"{name}{i}": t for name, ts in own.items() for i, t in enumerate(ts)}
        return tensors | {"power1": self.power1, "power2": self.power2}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Tensor) -> None:
        beta1, beta2 = _decay(self.beta1, self.power1), _decay(self.beta2, self.power2)
        R = together(inverse_root, [gram(p) for p in self.factors])
        U = [small_product(root, p) for root, p in zip(R, self.factors, strict=True)]
        P = others([gram(now, old) for now, old in zip(U, self.U, strict=True)])
        R = others(R)
        unmagnified = [small_product(root, g) for root, g in zip(R, in_rows(gradients), strict=True)]
        moved = [small_product(small_product(change, V), change.mT) for change, V in zip(P, self.V, strict=True)]
        values = together(_falling, [*self.V, *moved])
        of_V, of_moved = values[: len(moved)], values[len(moved) :]
        for V, new, g, rho, old, now in zip(self.V, moved, unmagnified, self.rho, of_V, of_moved, strict=True):
            rho.add_((old - now).amax(1).clamp_min(0)).mul_(beta2)
            V.copy_(new * per_run(beta2, V) + gram(g) / g.shape[2] * per_run(1 - beta2, V))
        roots = together(self._roots, [V + per_run(rho, V) * eye(V) for V, rho in zip(self.V, self.rho, strict=True)])
        for p, lr, root, change, M, scale, g in zip(self.factors, lrs, R, P, self.M, roots, unmagnified, strict=True):
            M.copy_(small_product(change, M) * per_run(beta1, M) + small_product(scale, g) * per_run(1 - beta1, M))
            p.mul_(per_run(1 - lr * self.weight_decay, p)).sub_(per_run(lr, p) * small_product(root, M))
        for old, now in zip(self.U, U, strict=True):
            old.copy_(now)

    def _roots(self, S: Tensor) -> Tensor:
        """(S^1/2 + εI)^-1, of the matrices of all runs, one parameter's after another's."""
        eps = self.eps.repeat(len(S) // len(self.eps))[:, None]
        return of_eigenvalues(S, lambda values: 1 / (sqrt_(values.clamp_min(0)) + eps))


def _decay(beta: Tensor, power: Tensor) -> Tensor:
    """β·(1 - β^(t-1))/(1 - β^t) of the step that comes now."""
    before = 1 - power
    return beta * before / (1 - power.mul_(beta))


def _falling(S: Tensor) -> Tensor:
    return eigen(S)[0].sort(1, descending=True)[0]

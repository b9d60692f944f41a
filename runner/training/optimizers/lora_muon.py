"""Steepest descent for the product of two factors in the spectral norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.config.options import FRACTION, option
from runner.core.exact import sqrt_
from runner.core.gram import gram, inverse_root, small_product, together
from runner.training.optimizers.base import CommonOptions, Optimizer, optimizer, per_run
from runner.training.optimizers.pairs import in_rows, others


@dataclass
class LoRAMuonOptions(CommonOptions):
    momentum: float = option("β, decay of the mean of gradients", FRACTION, per_run=True)


@optimizer("lora_muon", LoRAMuonOptions)
class LoRAMuon(Optimizer):
    """LoRA-Muon (Cesista et al. 2026, arXiv 2606.12921). Of A with the other factor B, and likewise of Bᵀ with Aᵀ:

    R = (BᵀB)^-1/2,  m ← β·m + (1-β)·g_A,  A ← k·A - lr/(2k)·R·msign(R·m),  k = √(1 - lr·λ),

    where msign(X) = (X·Xᵀ)^-1/2·X has all singular values at 1: each factor moves B·A by lr/2 in the spectral norm. What is
    singular is left out, here exactly, where the authors take a few of Newton and Schulz's iterations: a factor at zero has R =
    0, and the other one does not move. Parameters come by layers, A before B.
    """

    of_pairs = True

    def __init__(self, parameters: Sequence[Tensor], **hyperparameters: Tensor):
        super().__init__(parameters, **hyperparameters)
        self.factors = in_rows(parameters)
        self.m = [torch.zeros_like(p) for p in parameters]

    @property
    def state(self) -> dict[str, Tensor]:
        return {f"m{i}": m for i, m in enumerate(self.m)}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Tensor) -> None:
        for m, g in zip(self.m, gradients, strict=True):
            m.mul_(per_run(self.momentum, m)).add_(g * per_run(1 - self.momentum, m))
        R = others(together(inverse_root, [gram(p) for p in self.factors]))
        means = [small_product(root, m) for root, m in zip(R, in_rows(self.m), strict=True)]
        signs = together(inverse_root, [gram(X) for X in means])
        for p, lr, root, sign, X in zip(self.factors, lrs, R, signs, means, strict=True):
            keeps = sqrt_(1 - lr * self.weight_decay)
            p.mul_(per_run(keeps, p)).sub_(per_run(lr / (2 * keeps), p) * small_product(root, small_product(sign, X)))

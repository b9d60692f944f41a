"""Steepest descent for the product of two factors in the spectral norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from runner.config.options import FRACTION, ConfigError, option
from runner.core.exact import sqrt_
from runner.core.gram import gram, inverse_root, norm, small_product, together
from runner.training.optimizers.base import CommonOptions, Optimizer, optimizer, per_run
from runner.training.optimizers.pairs import in_rows, others

NOISE = 2.0**-44  # of the squared norms of R and m: what rounding alone can give an eigenvalue of (R·m)·(R·m)ᵀ


@dataclass
class LoRAMuonOptions(CommonOptions):
    momentum: float = option("β, decay of the mean of gradients", FRACTION, per_run=True)


@optimizer("lora_muon", LoRAMuonOptions)
class LoRAMuon(Optimizer):
    """LoRA-Muon (Cesista et al. 2026, arXiv 2606.12921). Of A with the other factor B, and likewise of Bᵀ with Aᵀ:

    R = (BᵀB)^-1/2,  m ← β·m + (1-β)·g_A,  A ← k·A - lr/(2k)·R·msign(R·m),  k = √(1 - lr·λ),

    where msign(X) = (X·Xᵀ)^-1/2·X has all singular values at 1: each factor moves B·A by lr/2 in the spectral norm. Directions
    that float32 cannot tell from none are left out; the authors' few iterations of Newton and Schulz leave them small. A factor
    at zero has R = 0, and the other one does not move. Parameters come by layers, A before B.
    """

    of_pairs = True

    def __init__(self, parameters: Sequence[Tensor], **hyperparameters: Tensor):
        super().__init__(parameters, **hyperparameters)
        self.factors = in_rows(parameters)
        self.m = [torch.zeros_like(p) for p in parameters]

    @classmethod
    def check(cls, options: LoRAMuonOptions) -> None:
        largest = options.lr * max(1.0, options.lr_ratio)
        if largest * options.weight_decay >= 1:
            raise ConfigError(
                f"optimizer.weight_decay={options.weight_decay}: takes all of B·A in one update at the rate {largest}; it must "
                f"be below {1 / largest:g}"
            )

    @property
    def state(self) -> dict[str, Tensor]:
        return {f"m{i}": m for i, m in enumerate(self.m)}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Tensor) -> None:
        for m, g in zip(self.m, gradients, strict=True):
            m.mul_(per_run(self.momentum, m)).add_(g * per_run(1 - self.momentum, m))
        roots = others(together(inverse_root, [gram(p) for p in self.factors]))
        # Rounding leaves 2^-24 of m's norm in every direction, and R takes it along.
        means = [small_product(_scaled(R), _scaled(m)) for R, m in zip(roots, in_rows(self.m), strict=True)]
        signs = together(partial(inverse_root, noise=NOISE), [gram(X) for X in means])
        for p, lr, R, sign, X in zip(self.factors, lrs, roots, signs, means, strict=True):
            keeps = sqrt_(1 - lr * self.weight_decay)
            p.mul_(per_run(keeps, p)).sub_(per_run(lr / (2 * keeps), p) * small_product(R, small_product(sign, X)))


def _scaled(X: Tensor) -> Tensor:
    """Times the power of 2 that takes the norm of each (K, …) to between 1/2 and 1, which rounds nothing."""
    _, exponent = torch.frexp(norm(X))
    return X * per_run(torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), -exponent), X)

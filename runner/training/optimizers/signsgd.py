"""Steps by the sign of the gradient: what the theory is stated for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.training.optimizers.base import CommonOptions, Optimizer, optimizer, per_run


@optimizer("signsgd", CommonOptions)
class SignSGD(Optimizer):
    """p ← (1 - lr·λ) p - lr · sign(g): the optimizer the theory is stated for (Adam with β1 = β2 = ε = 0)."""

    @property
    def state(self) -> dict[str, Tensor]:
        return {}

    def preconditioner(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """|g|: sign(g) = g/|g|."""
        return [g.abs() for g in gradients]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Tensor) -> None:
        for p, g, lr in zip(self.parameters, gradients, lrs, strict=True):
            p.mul_(per_run(1 - lr * self.weight_decay, p)).sub_(per_run(lr, p) * g.sign())

"""Gradient descent with momentum, as in torch.optim.SGD."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.config.options import FRACTION, option
from runner.training.optimizers.base import CommonOptions, Optimizer, optimizer, per_run


@dataclass
class SGDOptions(CommonOptions):
    momentum: float = option("μ", FRACTION, per_run=True)


@optimizer("sgd", SGDOptions)
class SGD(Optimizer):
    """b ← μ b + g + λ p;  p ← p - lr · b.   λ is weight decay in the gradient, as in torch.optim.SGD."""

    def __init__(self, parameters: Sequence[Tensor], **hyperparameters: Tensor):
        super().__init__(parameters, **hyperparameters)
        self.buffers = [torch.zeros_like(p) for p in parameters]

    @property
    def state(self) -> dict[str, Tensor]:
        return {f"b{i}": b for i, b in enumerate(self.buffers)}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Tensor) -> None:
        for p, g, lr, b in zip(self.parameters, gradients, lrs, self.buffers, strict=True):
            b.mul_(per_run(self.momentum, p)).add_(g).add_(per_run(self.weight_decay, p) * p)
            p.sub_(per_run(lr, p) * b)

"""Adam with decoupled weight decay, as in torch.optim.AdamW."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.config.options import FRACTION, POSITIVE, option
from runner.core.exact import sqrt_
from runner.training.optimizers.base import CommonOptions, Optimizer, optimizer, per_run


@dataclass
class AdamWOptions(CommonOptions):
    beta1: float = option("decay of the mean of gradients", FRACTION, per_run=True)
    beta2: float = option("decay of the mean of their squares", FRACTION, per_run=True)
    eps: float = option("added to the root of that mean", POSITIVE, per_run=True)


@optimizer("adamw", AdamWOptions)
class AdamW(Optimizer):
    """m ← β1 m + (1-β1) g;  v ← β2 v + (1-β2) g²;  p ← (1 - lr·λ) p - lr · m̂ / (√v̂ + ε)   (Loshchilov, Hutter 2019).

    m̂, v̂ are divided by 1 - β^t; λ is decoupled weight decay.
    """

    def __init__(self, parameters: Sequence[Tensor], **hyperparameters: Tensor):
        super().__init__(parameters, **hyperparameters)
        self.m = [torch.zeros_like(p) for p in parameters]
        self.v = [torch.zeros_like(p) for p in parameters]
        self.decays = bool((self.weight_decay != 0).any())  # asked once: reading it waits for the device
        self.power1, self.power2 = torch.ones_like(self.beta1), torch.ones_like(self.beta2)  # β1^t, β2^t

    @property
    def state(self) -> dict[str, Tensor]:
        moments = {f"{name}{i}": t for name, ts in (("m", self.m), ("v", self.v)) for i, t in enumerate(ts)}
        return moments | {"power1": self.power1, "power2": self.power2}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Sequence[Tensor]) -> None:
        self.power1.mul_(self.beta1)
        self.power2.mul_(self.beta2)
        for p, g, lr, m, v in zip(self.parameters, gradients, lrs, self.m, self.v, strict=True):
            m.mul_(per_run(self.beta1, p)).add_(g * per_run(1 - self.beta1, p))
            v.mul_(per_run(self.beta2, p)).add_((g * g).mul_(per_run(1 - self.beta2, p)))
            denominator = sqrt_(v / per_run(1 - self.power2, p)).add_(per_run(self.eps, p))
            if self.decays:
                p.mul_(per_run(1 - lr * self.weight_decay, p))
            p.sub_((m * per_run(lr / (1 - self.power1), p)).div_(denominator))

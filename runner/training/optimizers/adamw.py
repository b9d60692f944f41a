"""Adam with decoupled weight decay, as in torch.optim.AdamW."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import prange, uintp
from torch import Tensor

from runner.config.options import FRACTION, POSITIVE, option
from runner.core.compiled import njit
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
    def step(self, gradients: Sequence[Tensor], lrs: Tensor) -> None:
        self.power1.mul_(self.beta1)
        self.power2.mul_(self.beta2)
        update = self._in_one_pass if has_kernel(self.parameters) else self._by_operations
        of_runs = self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2, 1 - self.power2, self.eps
        keeps, lrs = 1 - lrs * self.weight_decay, lrs / (1 - self.power1)
        common = torch.stack(of_runs).expand(len(lrs), -1, -1)
        rates = torch.cat([common, keeps[:, None], lrs[:, None]], dim=1).to(self.parameters[0].dtype)
        for each in zip(self.parameters, gradients, self.m, self.v, rates, strict=True):
            update(*each)

    def preconditioner(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """(1 - β1^t)·(√v̂ + ε): the update is lr·m/P (Cohen et al. 2022, arXiv 2207.14484). Infinite for entries that have never
        had a gradient, and so have not moved: ε would make them the least bound of all."""

        def P(v: Tensor) -> Tensor:
            correction, unbiased, eps = (per_run(x, v) for x in (1 - self.power2, 1 - self.power1, self.eps))
            return torch.where(v > 0, (sqrt_(v / correction) + eps) * unbiased, torch.inf)

        return [P(v) for v in self.v]

    @staticmethod
    def _in_one_pass(p: Tensor, g: Tensor, m: Tensor, v: Tensor, rates: Tensor) -> None:
        """Compiled, for the CPU: the operations below, an entry at a time, to the same bits."""
        _adamw(*(t.view(len(t), -1).numpy() for t in (p, g.contiguous(), m, v)), rates.numpy())

    def _by_operations(self, p: Tensor, g: Tensor, m: Tensor, v: Tensor, rates: Tensor) -> None:
        beta1, rest1, beta2, rest2, correction, eps, keeps, lr = (per_run(rate, p) for rate in rates)
        m.mul_(beta1).add_(g * rest1)
        v.mul_(beta2).add_((g * g).mul_(rest2))
        denominator = sqrt_(v / correction).add_(eps)
        if self.decays:
            p.mul_(keeps)
        p.sub_((m * lr).div_(denominator))


BLOCK = 2**14  # entries of a run that a thread updates at a time


def has_kernel(parameters: Sequence[Tensor]) -> bool:
    """Whether what is compiled can update them."""
    return all(p.device.type == "cpu" and p.is_contiguous() for p in parameters)


@njit(parallel=True)  # no product is fused with a sum, which would round otherwise than two operations do
def _adamw(p, g, m, v, rates):
    """Update p, m, v (K, entries) from gradients g; `rates` (8, K): what `AdamW._by_operations` names."""
    blocks = -(-p.shape[1] // BLOCK)
    for item in prange(len(p) * blocks):
        k, first = item // blocks, item % blocks * BLOCK
        beta1, rest1, beta2, rest2, correction, eps, keeps, lr = rates[:, k]
        part = slice(first, first + BLOCK)
        P, G, M, V = p[k, part], g[k, part], m[k, part], v[k, part]
        for entry in range(len(P)):
            i = uintp(entry)
            M[i] = M[i] * beta1 + G[i] * rest1
            V[i] = V[i] * beta2 + (G[i] * G[i]) * rest2
            P[i] = P[i] * keeps - (M[i] * lr) / (np.sqrt(V[i] / correction) + eps)

"""Stacked optimizers: one update of K runs, each with its own learning rate and hyperparameters.

Every hyperparameter is a tensor (K,). A step takes gradients and learning rates per parameter and changes the parameters
in place; `state` names the tensors that it carries from step to step. Each optimizer agrees with its `torch.optim` namesake
run by run. They are written in operations that IEEE 754 rounds exactly (no `lerp`, no `addcmul`), so that a run gets the
same bits wherever in a stack it stands.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _per_run(values: Tensor, like: Tensor) -> Tensor:
    """(K,) -> (K, 1, …), in the shape and dtype that broadcast against `like` (K, …)."""
    return values.to(like).view(-1, *[1] * (like.dim() - 1))


class AdamW:
    """m ← β1 m + (1-β1) g;  v ← β2 v + (1-β2) g²;  p ← (1 - lr·λ) p - lr · m̂ / (√v̂ + ε)   (Loshchilov, Hutter 2019).

    m̂, v̂ are divided by 1 - β^t; λ is decoupled weight decay.
    """

    HYPERPARAMETERS = ("beta1", "beta2", "eps", "weight_decay")

    def __init__(self, parameters: Sequence[Tensor], beta1: Tensor, beta2: Tensor, eps: Tensor, weight_decay: Tensor):
        self.parameters = parameters
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in parameters]
        self.v = [torch.zeros_like(p) for p in parameters]
        self.decays = bool((weight_decay != 0).any())  # asked once: reading it waits for the device
        self.power1, self.power2 = torch.ones_like(beta1), torch.ones_like(beta2)  # β1^t, β2^t

    @property
    def state(self) -> dict[str, Tensor]:
        moments = {f"{name}{i}": t for name, ts in (("m", self.m), ("v", self.v)) for i, t in enumerate(ts)}
        return moments | {"power1": self.power1, "power2": self.power2}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Sequence[Tensor]) -> None:
        self.power1.mul_(self.beta1)
        self.power2.mul_(self.beta2)
        for p, g, lr, m, v in zip(self.parameters, gradients, lrs, self.m, self.v, strict=True):
            m.mul_(_per_run(self.beta1, p)).add_(g * _per_run(1 - self.beta1, p))
            v.mul_(_per_run(self.beta2, p)).add_((g * g).mul_(_per_run(1 - self.beta2, p)))
            denominator = (v / _per_run(1 - self.power2, p)).sqrt_().add_(_per_run(self.eps, p))
            if self.decays:
                p.mul_(_per_run(1 - lr * self.weight_decay, p))
            p.sub_((m * _per_run(lr / (1 - self.power1), p)).div_(denominator))


class SGD:
    """b ← μ b + g + λ p;  p ← p - lr · b.   λ is weight decay in the gradient, as in torch.optim.SGD."""

    HYPERPARAMETERS = ("momentum", "weight_decay")

    def __init__(self, parameters: Sequence[Tensor], momentum: Tensor, weight_decay: Tensor):
        self.parameters = parameters
        self.momentum, self.weight_decay = momentum, weight_decay
        self.buffers = [torch.zeros_like(p) for p in parameters]

    @property
    def state(self) -> dict[str, Tensor]:
        return {f"b{i}": b for i, b in enumerate(self.buffers)}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Sequence[Tensor]) -> None:
        for p, g, lr, b in zip(self.parameters, gradients, lrs, self.buffers, strict=True):
            b.mul_(_per_run(self.momentum, p)).add_(g).add_(_per_run(self.weight_decay, p) * p)
            p.sub_(_per_run(lr, p) * b)


class SignSGD:
    """p ← (1 - lr·λ) p - lr · sign(g): the optimizer the theory is stated for (Adam with β1 = β2 = ε = 0)."""

    HYPERPARAMETERS = ("weight_decay",)

    def __init__(self, parameters: Sequence[Tensor], weight_decay: Tensor):
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lrs: Sequence[Tensor]) -> None:
        for p, g, lr in zip(self.parameters, gradients, lrs, strict=True):
            p.mul_(_per_run(1 - lr * self.weight_decay, p)).sub_(_per_run(lr, p) * g.sign())


OPTIMIZERS = {"adamw": AdamW, "sgd": SGD, "signsgd": SignSGD}

# Fraction of the learning rate left at progress u in [0, 1), counted from the end of warm-up.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "linear": lambda u: 1.0 - u,
    "cosine": lambda u: 0.5 * (1.0 + math.cos(math.pi * u)),
}


def clipping(configs: Sequence[Any], device: torch.device) -> Tensor | None:
    """(K,) each run's largest gradient norm, infinite where it does not clip; None where none does."""
    largest = [math.inf if c.clip is None else c.clip for c in configs]
    return torch.tensor(largest, dtype=torch.float64, device=device) if min(largest) < math.inf else None


def clip(gradients: Sequence[Tensor], largest: Tensor) -> list[Tensor]:
    """Each run's gradients, scaled down where their common norm exceeds the run's `largest` (K,).

    g ← g · min(1, largest / (‖g‖ + 1e-6)), as torch.nn.utils.clip_grad_norm_ does; an infinite `largest` changes no bit,
    of a gradient that is not finite either.
    """
    norms = torch.stack([g.double().flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    factors = torch.where(largest.isinf(), 1.0, (largest / (norms + 1e-6)).clamp(max=1.0))
    return [g * _per_run(factors, g) for g in gradients]


def hold(gradients: Sequence[Tensor], trains: Tensor) -> list[Tensor]:
    """Each parameter's gradients (K, …), zero for the runs that do not train it; `trains` (parameters, K)."""
    return [torch.where(_per_run(row, g) != 0, g, 0) for g, row in zip(gradients, trains, strict=True)]


def build(configs: Sequence[Any], parameters: Sequence[Tensor]) -> AdamW | SGD | SignSGD:
    """The stacked optimizer of K `OptimizerConfig`s, which share a name, over parameters (K, …)."""
    kind = OPTIMIZERS[configs[0].name]
    values = {
        name: torch.tensor([getattr(c, name) for c in configs], dtype=torch.float64, device=parameters[0].device)
        for name in kind.HYPERPARAMETERS
    }
    return kind(parameters, **values)


def learning_rates(configs: Sequence[Any], steps: int) -> Tensor:
    """(steps, K) float64: `lr` under each run's schedule.

    Warm-up over w steps multiplies by (t + 1) / w; then the schedule runs from 1 at t = w towards 0 at t = steps.
    """

    def factor(config: Any, t: int) -> float:
        if t < config.warmup:
            return (t + 1) / config.warmup
        return SCHEDULES[config.schedule]((t - config.warmup) / (steps - config.warmup))

    return torch.tensor([[c.lr * factor(c, t) for c in configs] for t in range(steps)], dtype=torch.float64)

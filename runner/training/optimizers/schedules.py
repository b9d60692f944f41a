"""Learning rates over the steps."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Fraction of the learning rate left at progress u in [0, 1), counted from the end of warm-up.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "linear": lambda u: 1.0 - u,
    "cosine": lambda u: 0.5 * (1.0 + math.cos(math.pi * u)),
}


def learning_rates(configs: Sequence[Any], steps: int) -> Tensor:
    """(steps, K) float64: `lr` under each run's schedule.

    Warm-up over w steps multiplies by (t + 1) / w; then the schedule runs from 1 at t = w towards 0 at t = steps.
    """

    def factor(config: Any, t: int) -> float:
        if t < config.warmup:
            return (t + 1) / config.warmup
        return SCHEDULES[config.schedule]((t - config.warmup) / (steps - config.warmup))

    return torch.tensor([[c.lr * factor(c, t) for c in configs] for t in range(steps)], dtype=torch.float64)

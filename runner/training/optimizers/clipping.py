"""Clipping of each run's gradient to a norm of its own."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from runner.training.optimizers.base import per_run


def clipping(configs: Sequence[Any], device: torch.device) -> Tensor | None:
    """(K,) each run's largest gradient norm, infinite where it does not clip; None where none does."""
    max_norm = [math.inf if c.clip is None else c.clip for c in configs]
    return torch.tensor(max_norm, dtype=torch.float64, device=device) if min(max_norm) < math.inf else None


def clip(gradients: Sequence[Tensor], max_norm: Tensor) -> tuple[list[Tensor], Tensor]:
    """Each run's gradients, scaled down where their common norm exceeds the run's `max_norm` (K,); and by what (K,).

    g ← g · min(1, max_norm / (‖g‖ + 1e-6)), as torch.nn.utils.clip_grad_norm_ does; an infinite `max_norm` changes no bit,
    of a gradient that is not finite either.
    """
    norms = torch.stack([g.double().flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    factors = torch.where(max_norm.isinf(), 1.0, (max_norm / (norms + 1e-6)).clamp(max=1.0))
    return [g * per_run(factors, g) for g in gradients], factors

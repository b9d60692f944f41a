"""Divergence: which runs of a stack still train."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.config import Config


class Stability:
    """Which runs are alive, and at which step each ended (at the last, if it has not diverged)."""

    def __init__(self, configs: Sequence[Config], device: torch.device, dtype: torch.dtype):
        self.max_ratio = torch.tensor([c.stability.max_ratio for c in configs], device=device, dtype=dtype)
        self.ceiling = torch.zeros_like(self.max_ratio)
        self.ends = torch.full((len(configs),), configs[0].steps, device=device)
        self.alive = torch.ones(len(configs), dtype=torch.bool, device=device)

    def update(self, step: int, losses: Tensor) -> None:
        """Take a step's losses (K,)."""
        if step == 0:
            torch.mul(self.max_ratio, losses, out=self.ceiling)
        stable = losses.isfinite() & (losses <= self.ceiling)
        self.ends.copy_(torch.where(self.alive & ~stable, step, self.ends))
        self.alive &= stable

    @property
    def state(self) -> dict[str, Tensor]:
        return {"ceiling": self.ceiling, "ends": self.ends, "alive": self.alive}

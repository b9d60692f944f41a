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
        self._any = torch.ones((), dtype=torch.bool, pin_memory=device.type == "cuda")

    def update(self, step: Tensor, runs: Tensor, losses: Tensor) -> None:
        """Take the losses (k,) of these runs (k,) at a step (1,)."""
        ceiling, alive = self.ceiling[runs], self.alive[runs]
        ceiling = torch.where(step == 0, self.max_ratio[runs] * losses, ceiling)
        stable = losses.isfinite() & (losses <= ceiling)
        self.ceiling[runs] = ceiling
        self.ends[runs] = torch.where(alive & ~stable, step, self.ends[runs])
        self.alive[runs] = alive & stable

    def any_alive(self) -> bool:
        """Whether a run still trains; on a GPU, which is not waited for, as it was at some earlier call."""
        self._any.copy_(self.alive.any(), non_blocking=True)
        return bool(self._any)

    @property
    def state(self) -> dict[str, Tensor]:
        return {"ceiling": self.ceiling, "ends": self.ends, "alive": self.alive}

"""What every task answers, and the shape the toy regressions share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from runner.adapters import LoRA


@dataclass(frozen=True)
class Batch:
    """Inputs Z (N, n_in) of the adapted layer, its frozen output y0 (N, n_out), and the task's target (N, …)."""

    Z: Tensor
    y0: Tensor
    target: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        return Batch(*(t.to(device, dtype) for t in (self.Z, self.y0, self.target)))


class SquaredError(torch.autograd.Function):
    """Σ (y - target)² over all but the first dimension: (K, N, …) -> (K,), in the memory of y.

    Forward leaves y - target there, backward the gradient 2·g·(y - target). Plain operations would hold several tensors of
    the size of y, and a step is bound by the traffic of those.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(y.sub_(target))
        return torch.linalg.vector_norm(y, dim=-1).square().flatten(1).sum(1)  # in two steps: a long sum rounds badly

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        [error] = ctx.saved_tensors
        return error.mul_(2 * g.view(-1, *[1] * (error.dim() - 1))), None


class Task(ABC):
    """A frozen base with one adapted layer, W0 (n_out, n_in), and full-batch data.

    The base is frozen and lies before the adapter, so Z and y0 = W0·Z are constants: they are computed once, and a step
    costs no n × n product. Subclasses build W0, `train`, `test` (on the CPU) and say what the loss of a layer output is.
    """

    W0: Tensor
    train: Batch
    test: Batch
    fused: ClassVar[bool] = False  # whether the loss is one that `runner.fused` knows, …
    readout: Tensor | None = None  # … and then its readout weights (n_out,), if it has any

    def to(self, device: torch.device, dtype: torch.dtype) -> "Task":
        """Move the data to where training happens."""
        self.train, self.test = self.train.to(device, dtype), self.test.to(device, dtype)
        return self

    @abstractmethod
    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        """Layer outputs (K, N, n_out), which may be overwritten, and the batch's target -> losses (K,)."""

    def loss_and_grad(self, adapter: LoRA, step: int) -> tuple[Tensor, list[Tensor]]:
        """Training losses (K,) and the gradient of each run's own loss, one (K, …) tensor per adapter parameter."""
        losses = self.loss(adapter(self.train.Z, self.train.y0), self.train.target)
        # Runs share no parameter, so the gradient of the sum holds each run's own gradient.
        gradients = torch.autograd.grad(losses.sum(), list(adapter.parameters.values()))
        return losses.detach(), list(gradients)

    @torch.no_grad()
    def eval_loss(self, adapter: LoRA) -> Tensor:
        """Held-out losses (K,)."""
        return self.loss(adapter(self.test.Z, self.test.y0), self.test.target)

    def probe(self, size: int) -> Tensor:
        """The fixed inputs (P, n_in) on which features are measured: the first `size` training points, or all."""
        return self.train.Z[:size]

"""What the toys with a scalar output share: a frozen readout of the adapted layer's ReLU."""

from typing import Any

import torch
from torch import Tensor

from runner.config import Config
from runner.tasks.toy import ToyTask


class ReLUReadout(torch.autograd.Function):
    """y (…, n) -> ReLU(y)·w (…), in the memory of y: forward leaves ReLU(y) there, backward the gradient g·w·1[y > 0].

    The reason is that of `SquaredError`.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(y.relu_(), w)
        return y @ w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        y, w = ctx.saved_tensors
        return y.sign_().mul_(w).mul_(g.unsqueeze(-1)), None


class Readout(ToyTask):
    """Loss = mean over points of (W_out·φ(y) - target)²; `readout` is W_out."""

    fused, calibrates = True, True

    @classmethod
    def activations(cls, config: Config, fused: bool) -> float:
        """The fused step keeps a bit for the slope of every point and column, too, in the size of a float32's."""
        points = config.task.train_points + config.task.test_points
        return super().activations(config, fused) + fused * points * config.task.width / 32

    def to(self, device: torch.device, dtype: torch.dtype) -> ToyTask:
        self.readout = self.readout.to(device, dtype)
        return super().to(device, dtype)

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return (ReLUReadout.apply(y, self.readout) - target).square().mean(1)

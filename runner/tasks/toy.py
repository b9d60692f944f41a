"""What the toy regressions share: one adapted layer behind a frozen base, and full-batch data."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.adapters.factored import padded, pairs
from runner.config import Config, ConfigError
from runner.config.options import SIZE, option
from runner.config.schema import TaskOptions
from runner.core.exact import product
from runner.inits import Calibration
from runner.tasks.base import PER_OUTPUT, Adapters, Probe, Task


@dataclass
class ToyOptions(TaskOptions):
    width: int = option("n", SIZE)
    train_points: int = option("training points, all in every step", SIZE)
    test_points: int = option("held-out points", SIZE)

    def layer_shape(self) -> tuple[int, int]:
        """(n_out, n_in) of the adapted layer."""
        return self.width, self.width


@dataclass(frozen=True)
class Batch:
    """Inputs Z (N, n_in) of the adapted layer, its frozen output y0 (N, n_out), and the task's target (N, …).

    `added` (N, n_out) is what y0 holds beside W0·Z, None if nothing.
    """

    Z: Tensor
    y0: Tensor
    target: Tensor
    added: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(*(t if t is None else change(t) for t in (self.Z, self.y0, self.target, self.added)))


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


class ToyTask(Task):
    """One adapted layer, `hidden`, and full-batch data.

    The base is frozen and lies before the adapter, so Z and y0 = W0·Z are constants: they are computed once, and a step
    costs no n × n product. Subclasses build W0, `train`, `test` (on the CPU) and say what the loss of a layer output is.
    What they build is float64, in products with the same bits on every machine, and rounded once, when training begins.
    """

    W0: Tensor
    train: Batch
    test: Batch
    readout: Tensor | None = None  # readout weights (n_out,) of a loss that the fused step knows, if it has any

    def __init__(self, config: ToyOptions, seed: int):
        raise NotImplementedError

    @classmethod
    def build(cls, configs: Sequence[Config]) -> "ToyTask":
        return cls(configs[0].task, configs[0].seed)

    @classmethod
    def shapes(cls, task: ToyOptions) -> dict[str, tuple[int, int]]:
        return {"hidden": task.layer_shape()}

    @classmethod
    def cost(cls, task: ToyOptions, multiplied: int = 0) -> float:
        return task.train_points * (task.layer_shape()[0] + multiplied / PER_OUTPUT)

    @classmethod
    def activations(cls, config: Config, fused: bool) -> float:
        task = config.task
        if fused:
            return 4 * (task.train_points + task.test_points) * padded(config.adapter.rank) * pairs(config)
        return max(task.train_points, task.test_points) * task.layer_shape()[0]

    @classmethod
    def frozen(cls, config: Config) -> float:
        """W0, once more in float64 for inits, the weights before it, and in float64 of each point Z, y0 and what they are of."""
        (n_out, n_in), task = config.task.layer_shape(), config.task
        inputs = getattr(task, "input_dim", 0)
        points = task.train_points + task.test_points
        return 4.0 * n_in * (3 * n_out + inputs) + 8.0 * points * (n_in + n_out + inputs)

    @classmethod
    def check(cls, config: Config) -> None:
        if config.adapter.start_from is not None:
            raise ConfigError(
                f"adapter.start_from={config.adapter.start_from}: is for transformers models; task={config.task.name} takes null"
            )
        if config.adapter.dropout:
            raise ConfigError(
                f"adapter.dropout={config.adapter.dropout}: is for transformers models; task={config.task.name} takes 0"
            )

    @property
    def layers(self) -> dict[str, Tensor]:
        return {"hidden": self.W0}

    def to(self, device: torch.device, dtype: torch.dtype) -> "ToyTask":
        self.train, self.test = (batch.map(lambda t: t.to(device, dtype)) for batch in (self.train, self.test))
        return self

    def calibrate(self, examples: int, needs: Collection[str]) -> dict[str, Calibration]:
        points = len(self.train.Z)
        some = torch.linspace(0, points - 1, min(examples, points), device=self.train.Z.device).round().long()
        batch = self.train.map(lambda t: t[some].double())
        readout, gradient = self.readout, None
        if "gradient" in needs:
            self.readout = None if readout is None else readout.double()
            y = batch.y0[None].clone().requires_grad_()
            [grad] = torch.autograd.grad(self.loss(y.clone(), batch.target).sum(), y)
            self.readout, gradient = readout, product(grad[0].detach().T, batch.Z).cpu()
        Z = batch.Z.cpu()
        return {
            "hidden": Calibration(product(torch.ones(1, len(Z)), Z)[0] / len(Z), product(Z.T, Z) / len(Z), gradient)
        }

    def replace(self, weights: dict[str, Tensor]) -> None:
        change = weights["hidden"].double() - self.W0.double()
        self.W0 = weights["hidden"]

        def moved(batch: Batch) -> Batch:
            y0 = batch.y0.double() + product(batch.Z, change.T.to(batch.Z.device))
            return Batch(batch.Z, y0.to(batch.y0), batch.target, batch.added)

        self.train, self.test = moved(self.train), moved(self.test)

    @abstractmethod
    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        """Layer outputs (K, N, n_out), which may be overwritten, and the batch's target -> losses (K,)."""

    def loss_and_grad(self, adapters: Adapters) -> tuple[Tensor, list[Tensor]]:
        losses = self._losses(self.train, adapters)
        # Runs share no parameter, so the gradient of the sum holds each run's own gradient.
        gradients = torch.autograd.grad(losses.sum(), list(adapters["hidden"].parameters.values()))
        return losses.detach(), list(gradients)

    @torch.no_grad()
    def losses(self, adapters: Adapters) -> Tensor:
        return self._losses(self.train, adapters)

    @torch.no_grad()
    def evaluate(self, adapters: Adapters) -> dict[str, Tensor]:
        return {"eval/loss": self._losses(self.test, adapters)}

    def _losses(self, batch: Batch, adapters: Adapters) -> Tensor:
        return self.loss(adapters["hidden"](batch.Z, batch.y0, batch.added), batch.target)

    def probe(self, size: int) -> dict[str, Probe]:
        """The first `size` training points, or all."""
        some = self.train.map(lambda t: t[:size])
        return {"hidden": Probe(some.Z, some.y0 if some.added is None else some.y0 - some.added)}

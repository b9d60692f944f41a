"""A step of K runs in lockstep: losses, gradients, update, and what is measured of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.adapters import Adapter
from runner.config import Config
from runner.tasks.base import Task
from runner.training.engines import Engine
from runner.training.log import Log
from runner.training.measure import layers
from runner.training.optimizers import base as optimizers
from runner.training.optimizers.clipping import clip, clipping
from runner.training.optimizers.schedules import learning_rates as schedule
from runner.training.stability import Stability
from runner.training.start import trained


class Step:
    """What happens to all runs at a step, in operations on tensors alone.

    Nothing of it waits for the device, and whatever depends on the step is read from tensors that `to` sets: so a GPU can replay
    it (`recorded`). `state` names every tensor that is carried from step to step.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        task: Task,
        adapters: dict[str, Adapter],
        device: torch.device,
        dtype: torch.dtype,
    ):
        shared, options = configs[0], [c.optimizer for c in configs]
        self.task, self.adapters, self.steps = task, adapters, shared.steps
        self.parameters = [p.detach() for adapter in adapters.values() for p in adapter.parameters.values()]
        self.before = [torch.empty_like(p) for p in self.parameters]
        self.optimizer = optimizers.build(options, self.parameters)
        trains = trained(adapters)
        self.trains = None if trains.all() else trains.to(device)
        self.lrs = (learning_rates(configs, adapters) * trains).to(device)
        self.max_norm = clipping(options, device)
        probe = task.probe(shared.probe.size)
        directions = {layer: W0.to(device) for layer, W0 in task.layers.items() if shared.log.directions}
        self.meters = layers.Meters([(adapters[layer], probe[layer], directions.get(layer)) for layer in task.layers])
        self.log = Log(configs, list(task.layers), self.meters.columns, task.evals, device)
        self.stability = Stability(configs, device, dtype)
        self.now, self.row = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))

    def to(self, step: int) -> None:
        """Let this step come next."""
        self.task.to_step(step)
        self.now.fill_(step)
        self.row.fill_(self.log.index.get(step, 0))

    def __call__(self, engine: Engine, evaluates: bool, has_row: bool, last: bool) -> None:
        """Of the runs as they are: losses, evaluations if it `evaluates`, an update unless it is the `last`, and a row of the log
        if it `has_row`."""
        losses, gradients = engine.loss_and_grad(self.adapters)
        self.log.losses[self.now] = losses.double()
        self.stability.update(self.now, losses)
        if evaluates:
            self.log.evaluated(self.row, engine.evaluate(self.adapters))
        if has_row:
            for old, p in zip(self.before, self.parameters, strict=True):
                old.copy_(p)
        if not last:
            used = gradients if self.trains is None else optimizers.mask_frozen(gradients, self.trains)
            self.optimizer.step(
                used if self.max_norm is None else clip(used, self.max_norm), self.lrs[self.now].squeeze(0)
            )
        if has_row:
            self.log.measured(self.row, self.meters.measure(self.before, gradients, self.parameters))

    @property
    def state(self) -> dict[str, Tensor]:
        """By name."""
        state = {f"parameter{i}": p for i, p in enumerate(self.parameters)}
        parts = {"optimizer": self.optimizer, "log": self.log, "stability": self.stability}
        return state | {f"{part}/{name}": t for part, of in parts.items() for name, t in of.state.items()}


def learning_rates(configs: Sequence[Config], adapters: dict[str, Adapter]) -> Tensor:
    """(steps, parameters, K) float64: the scheduled lr of each parameter; `lr_ratio` times it on the output side."""
    lrs = schedule([c.optimizer for c in configs], configs[0].steps)
    ratios = torch.tensor([c.optimizer.lr_ratio for c in configs], dtype=torch.float64)
    sides = [adapter.sides.get(name) for adapter in adapters.values() for name in adapter.parameters]
    return torch.stack([lrs * ratios if side == "B" else lrs for side in sides], dim=1)

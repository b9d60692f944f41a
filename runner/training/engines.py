"""Which engine trains a stack."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from runner.config import Config
from runner.config.resources import refusals, resolve_engine
from runner.tasks.base import Adapters, Task
from runner.tasks.finetuning import ModelTask
from runner.training.compiled.choice import compile_step
from runner.training.fused.step import Fused


class Engine(Protocol):
    """Answers what losses and gradients the stacked adapters of a task have, as `Task` does."""

    def loss_and_grad(self, adapters: Adapters) -> tuple[Tensor, list[Tensor]]: ...

    def losses(self, adapters: Adapters) -> Tensor: ...

    def evaluate(self, adapters: Adapters) -> dict[str, Tensor]: ...


def build_engine(
    configs: Sequence[Config], task: Task, adapters: Adapters, ahead: int | None = None, begun: str | None = None
) -> tuple[str, Engine]:
    """Its name and the engine, for adapters that are updated in place; `ahead` as in `train`, `begun`: the engine that a stack
    which goes on has had so far."""
    config, name = configs[0], resolve_engine(configs[0])
    if name == "fused":
        return name, Fused(task)
    compiles = isinstance(task, ModelTask) and refusals(config)["compiled"] is None
    if compiles and begun != "autograd" and (name == "compiled" or config.engine == "auto"):
        pays_from = None if "compiled" in (name, begun) else ahead or sum(config.steps for config in configs)
        if step := compile_step(task, adapters, config.bases, pays_from):
            return "compiled", step
    return "autograd", task

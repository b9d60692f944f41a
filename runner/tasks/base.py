"""What every task answers, and how one is declared."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from runner.adapters import Adapter
from runner.config import Config
from runner.config.registry import TASKS
from runner.config.schema import TaskOptions
from runner.inits import Calibration

Adapters = Mapping[str, Adapter]  # layer -> its K adapters
PER_OUTPUT = 16  # entries of a weight that an input meets in the time of one entry of a toy's layer output


@dataclass(frozen=True)
class Probe:
    """Fixed inputs Z (P, n_in) of a frozen layer, and Y0 = W0·Z (P, n_out) of them, without a bias or what else is added."""

    Z: Tensor
    Y0: Tensor


class Task(ABC):
    """A frozen base with adapted layers, and data; it answers what losses and gradients the stacked adapters have.

    `layers` names each adapted layer and its weight W0 (n_out, n_in); `heads` the layers that each run trains in full, and
    their shapes (n_out, n_in, whether there is a bias).
    """

    # Whether `loss_and_grad` keeps the squares (K,) of each parameter's gradients of parts, and these: see `measure.noise`.
    measures_noise: bool = False
    part_squares: Sequence[Tensor] = ()
    layers: dict[str, Tensor]
    heads: Mapping[str, tuple[int, int, bool]] = MappingProxyType({})
    trains_head: ClassVar[bool] = False  # whether there are any
    exports: ClassVar[bool] = False  # whether PEFT can load an adapter on its model
    calibrates: ClassVar[bool] = False  # whether there is data that inits may look at
    fused: ClassVar[bool] = False  # whether the loss is one that the fused step knows
    compiles: ClassVar[bool] = False  # whether it is a model, whose step can be compiled
    seeds_share_base: ClassVar[bool] = False  # whether runs of different seeds can be in one stack
    max_stack_size: ClassVar[int] = 64  # a stack on the CPU: more gain nothing, and leave fewer stacks for the workers
    objective: ClassVar[str] = "final_loss"  # the entry of summary.json by which runs are compared
    evals: ClassVar[tuple[str, ...]] = ("eval/loss",)

    @classmethod
    @abstractmethod
    def build(cls, configs: Sequence[Config]) -> "Task":
        """The task of K runs that share a stack, on the CPU."""

    @classmethod
    @abstractmethod
    def shapes(cls, task: TaskOptions) -> dict[str, tuple[int, int]]:
        """(n_out, n_in) of every adapted layer, without building anything."""

    @classmethod
    @abstractmethod
    def cost(cls, task: TaskOptions, multiplied: int = 0) -> float:
        """Relative time of one run's step, whose inputs meet so many entries of weights of its own beside the frozen ones; a
        toy's layer output costs its number of entries."""

    @classmethod
    @abstractmethod
    def activations(cls, config: Config, fused: bool) -> float:
        """Numbers that one more run of a stack keeps from forward to backward."""

    @classmethod
    @abstractmethod
    def frozen(cls, config: Config) -> float:
        """Bytes that the frozen base and the data take at least, while they are made."""

    @classmethod
    def resolve(cls, task: TaskOptions) -> TaskOptions:
        """The same with what a checkpoint knows about itself filled in. Raises ConfigError."""
        return task

    @classmethod
    def check(cls, config: Config) -> None:
        """Raise ConfigError for what the ranges of single fields cannot know."""
        return None

    @classmethod
    def prepare(cls, config: Config) -> None:
        """Make, once and before any stack is trained, what stacks and processes share on disk. Raises ConfigError."""
        return None

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> "Task":
        """Move base and data to where training happens."""

    def calibrate(self, examples: int, needs: Collection[str]) -> dict[str, Calibration]:
        """Layer -> its statistics ("inputs" and "gradient", as needed) in the frozen model over that many training examples,
        evenly spaced; on the CPU."""
        raise NotImplementedError

    @abstractmethod
    def replace(self, weights: dict[str, Tensor]) -> None:
        """Let these weights (n_out, n_in) of layers be the frozen ones from now on."""

    def to_step(self, step: int) -> None:
        """Let the examples of this step be those that come next."""
        return None

    @abstractmethod
    def loss_and_grad(self, adapters: Adapters) -> tuple[Tensor, list[Tensor]]:
        """Training losses (K,) at the step that has come, and the gradient of each run's own loss: a (K, …) tensor per parameter,
        adapter by adapter. It waits for no device, nor does `evaluate` after step 0."""

    @abstractmethod
    def losses(self, adapters: Adapters) -> Tensor:
        """The training losses alone."""

    @abstractmethod
    def evaluate(self, adapters: Adapters) -> dict[str, Tensor]:
        """Column of `evals` -> held-out value (K,)."""

    @abstractmethod
    def probe(self, size: int) -> dict[str, Probe]:
        """Layer -> the inputs on which its features are measured, P <= size."""


def run_count(adapters: Adapters) -> int:
    """How many runs the adapters are of."""
    return len(next(iter(next(iter(adapters.values())).parameters.values())))


def task(name: str, options: type[TaskOptions]) -> Callable[[type[Task]], type[Task]]:
    """Declare the class as a task under this name, with the dataclass of its options."""

    def declare(kind: type[Task]) -> type[Task]:
        TASKS.declare(name, kind, options)
        return kind

    return declare

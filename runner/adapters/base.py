"""What all adapters share, and how one is declared.

On the toys all runs share x and y0, and `adapter(x, y0)` is (K, N, n_out). Inside a model every run has its own: K runs are
folded into the batch dimension, run after run, and `adapter.folded(x, y0)` unfolds them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from runner.config.registry import ADAPTERS
from runner.config.schema import AdapterOptions, Config

Pair = tuple[Tensor, Tensor]
Shape = tuple[int, int]  # n_out, n_in
Shapes = Mapping[str, Shape]  # by layer


class Adapter(ABC):
    """What trains at one layer, K runs at once.

    `parameters`: name -> tensor (K, …). `sides` says on which side each of them lies: on the output side, "B", the learning
    rate is `optimizer.lr_ratio` times that of all others.
    """

    parameters: dict[str, Tensor]
    frozen: list[tuple[str, ...]] | None = None  # of each run, the parameters that do not train
    sides: ClassVar[Mapping[str, str]]
    default_init: ClassVar[str]
    common: ClassVar[tuple[str, ...]] = ()  # attributes whose tensors are the same for all runs; all others are (K, …)
    fused: ClassVar[bool] = False  # whether the fused step can train it: that knows two factors and no gain
    rescales: ClassVar[bool] = False  # whether it has a gain, which needs the frozen weight's rows and outputs
    peft: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # what tells it in a PEFT folder; of none, nothing
    peft_names: ClassVar[Mapping[str, str]]  # parameter -> what PEFT calls it

    @classmethod
    def check(cls, options: AdapterOptions, shapes: Shapes) -> None:
        """Raise ConfigError for what the ranges of single fields cannot know."""
        return None

    @classmethod
    def scale_of(cls, options: AdapterOptions) -> float:
        """s."""
        return 1.0

    @classmethod
    @abstractmethod
    def entries(cls, config: Config, shapes: Sequence[Shape]) -> int:
        """How many numbers a run trains, at most."""

    @classmethod
    @abstractmethod
    def numbers(cls, config: Config, shapes: Sequence[Shape]) -> int:
        """How many numbers a run keeps for layers: what trains, gradients, the optimizer's state, and their copies."""

    @classmethod
    def multiplied(cls, shapes: Sequence[Shape]) -> int:
        """Entries of weights of a run's own that inputs meet; thin factors do not count beside the frozen weights."""
        return 0

    @classmethod
    def shared(
        cls,
        configs: Sequence[Config],
        shapes: Shapes,
        tensors: Mapping[str, Mapping[str, Tensor]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Any:
        """What the layers of a stack share; `tensors`: those of the PEFT folders that runs start from, by folder."""
        return None

    @classmethod
    @abstractmethod
    def stack(
        cls, configs: Sequence[Config], layer: str, W0: Tensor, drawn: list[Tensor], offset: Pair | None, shared: Any
    ) -> "Adapter":
        """The adapters of K runs at a layer, from the parameters (K, …) that their inits drew, where training happens.

        `offset`: (A0, B0) where the frozen weight of a run is W0 - s·B0·A0. Raises ConfigError where W0 does not suit.
        """

    @abstractmethod
    def __call__(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, n_in), (N, n_out), both shared by all runs -> (K, N, n_out). `added` (N, n_out), as in `folded`."""

    @abstractmethod
    def folded(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        """(K·b, …, n_in) and the frozen layer's output (K·b, …, n_out), which may be overwritten -> (K·b, …, n_out).

        `added`: what y0 holds beside W0·x, such as a bias (n_out,).
        """

    def adds_nothing(self) -> Tensor:
        """(K,), whether a run's layer is that of a run that has not trained yet, exactly; false where that is not known."""
        first = next(iter(self.parameters.values()))
        return torch.zeros(len(first), dtype=torch.bool, device=first.device)

    def each(self, change: Callable[[Tensor, bool], Tensor]) -> "Adapter":
        """A copy with other tensors; `change` is given each of them, and whether its first dimension is the runs."""
        other = copy(self)
        for name, value in vars(self).items():
            setattr(other, name, _changed(value, partial(change, per_run=name not in self.common)))
        return other

    def of(self, runs: slice | Tensor) -> "Adapter":
        """That of some of the runs; of a slice the tensors are views."""
        some = self.each(lambda t, per_run: t[runs] if per_run else t)
        if self.frozen is not None:
            some.frozen = self.frozen[runs] if isinstance(runs, slice) else [self.frozen[k] for k in runs.tolist()]
        return some

    def frozen_factors(self, layer: str, k: int) -> dict[str, Tensor]:
        """Name -> factor of run k that does not train and is kept with what does."""
        return {}


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with each tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_changed(part, change) for part in value)
    if isinstance(value, dict):
        return {name: _changed(part, change) for name, part in value.items()}
    if hasattr(value, "__dict__"):
        other = copy(value)
        vars(other).update(_changed(vars(value), change))
        return other
    return value


def adapter(name: str, options: type[AdapterOptions]) -> Callable[[type[Adapter]], type[Adapter]]:
    """Declare the class as an adapter under this name, with the dataclass of its options."""

    def declare(kind: type[Adapter]) -> type[Adapter]:
        ADAPTERS.declare(name, kind, options)
        return kind

    return declare

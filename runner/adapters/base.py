"""What all adapters share, how one is declared, and the plainest: a head that is trained in full.

On the toys all runs share x and y0, and `adapter(x, y0)` is (K, N, n_out). Inside a model every run has its own: K runs are
folded into the batch dimension, run after run, and `adapter.folded(x, y0)` unfolds them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from runner.adapters.products import AddFolded, AddProduct, GainFolded, GainProduct
from runner.config.checks import check_rank
from runner.config.registry import ADAPTERS
from runner.config.schema import AdapterOptions, Config

Pair = tuple[Tensor, Tensor]
Shapes = Mapping[str, tuple[int, int]]  # layer -> (n_out, n_in)


class Adapter(ABC):
    """What trains at one layer, K runs at once.

    `parameters`: name -> tensor (K, …). `sides` says which of them lie on the output side ("B"), where the learning rate is
    `optimizer.lr_ratio` times that of the input side ("A").
    """

    parameters: dict[str, Tensor]
    peft_names: ClassVar[Mapping[str, str]]  # parameter -> what PEFT calls it
    sides: ClassVar[Mapping[str, str]] = MappingProxyType({})
    frozen: list[tuple[str, ...]] | None = None  # of each run, the parameters that do not train

    @abstractmethod
    def folded(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        """(K·b, …, n_in) and the frozen layer's output (K·b, …, n_out), which may be overwritten -> (K·b, …, n_out).

        `added`: what y0 holds beside W0·x, such as a bias (n_out,).
        """


class Factored(Adapter):
    """y = added + g∘(W0·x + outer·inner·x) with the two factors, and the gain g, functions of what trains.

    The arithmetic of a step sees the factors alone; their gradients go back to the parameters by autograd.
    """

    scale: Tensor  # (K,) s, in front of the features that are measured
    fused: ClassVar[bool] = True  # whether the fused step can train it: that knows no gain
    diagonal: ClassVar[bool] = False  # whether the first two parameters are diagonals, in front of frozen factors
    rescales: ClassVar[bool] = False  # whether it has a gain, which needs the frozen weight's rows and outputs
    default_init: ClassVar[str] = "gaussian_A"
    peft: ClassVar[Mapping[str, Any]]  # fields of PEFT's adapter_config.json that tell this adapter from others

    @classmethod
    def check(cls, options: AdapterOptions, shapes: Shapes) -> None:
        """Raise ConfigError for what the ranges of single fields cannot know."""
        if options.start_from is None:  # a folder may hold factors of twice a run's rank
            for layer, shape in shapes.items():
                check_rank("adapter.rank", options.rank, layer, shape)

    @classmethod
    def scale_of(cls, options: AdapterOptions) -> float:
        """s."""
        return 1.0

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
        cls, configs: Sequence[Config], layer: str, W0: Tensor, A: Tensor, B: Tensor, offset: Pair | None, shared: Any
    ) -> "Factored":
        """The adapters of K runs at a layer, from what their inits drew (K, …), where training happens.

        `offset`: (A0, B0) where the frozen weight of a run is W0 - s·B0·A0. Raises ConfigError where W0 does not suit.
        """

    @abstractmethod
    def factors(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """inner (K, q, n_in) and outer (K, n_out, q), which holds the scale, for these values of the parameters."""

    @abstractmethod
    def learned(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """A (K, r, n_in) and B (K, n_out, r) whose features are measured, with `scale`: what is learned, without an offset."""

    def gain(self, inner: Tensor, outer: Tensor, parameters: Sequence[Tensor]) -> Tensor | None:
        """(K, n_out), or None where outputs are not scaled."""
        return None

    def frozen_factors(self, layer: str, k: int) -> dict[str, Tensor]:
        """Name -> factor of run k that does not train and is kept with what does."""
        return {}

    def _current(self) -> tuple[Tensor, Tensor, Tensor | None]:
        parameters = list(self.parameters.values())
        inner, outer = self.factors(parameters)
        return inner, outer, self.gain(inner, outer, parameters)

    def __call__(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, n_in), (N, n_out), both shared by all runs -> (K, N, n_out). `added` (N, n_out), as in `folded`."""
        inner, outer, gain = self._current()
        runs, q, _ = inner.shape
        # x is the same for every run, so all K·q rows of the inner factors meet it in one matrix product.
        Z = (x @ inner.flatten(0, 1).T).view(-1, runs, q).transpose(0, 1)
        if gain is None:
            return AddProduct.apply(y0, Z, outer)
        return GainProduct.apply(y0, y0 if added is None else y0 - added, Z, outer, gain)

    def folded(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        inner, outer, gain = self._current()
        if gain is None:
            return AddFolded.apply(y0, x, inner, outer)
        return GainFolded.apply(y0, x, inner, outer, gain, added)


def adapter(name: str, options: type[AdapterOptions]) -> Callable[[type[Factored]], type[Factored]]:
    """Declare the class as an adapter under this name, with the dataclass of its options."""

    def declare(kind: type[Factored]) -> type[Factored]:
        ADAPTERS.declare(name, kind, options)
        return kind

    return declare


class Dense(Adapter):
    """y = W·x + b in the place of a frozen layer: a head that each run trains in full. W (K, n_out, n_in), b (K, n_out)."""

    peft_names = MappingProxyType({"W": "weight", "b": "bias"})

    def __init__(self, W: Tensor, b: Tensor | None):
        self.parameters = {"W": W.requires_grad_()} | ({} if b is None else {"b": b.requires_grad_()})

    def folded(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        W, b = self.parameters["W"], self.parameters.get("b")
        y = x.reshape(len(W), -1, W.shape[2]).to(W.dtype) @ W.mT
        return (y if b is None else y + b[:, None]).view(y0.shape).to(y0.dtype)

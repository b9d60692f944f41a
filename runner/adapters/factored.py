"""What LoRA, DoRA and VeRA share: two thin factors beside a frozen weight."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from runner.adapters.base import Adapter, Shape, Shapes
from runner.adapters.products import AddFolded, AddProduct, GainFolded, GainProduct
from runner.config.checks import check_rank
from runner.config.options import FRACTION, SIZE, choices, option
from runner.config.registry import INITS
from runner.config.schema import AdapterOptions, Config

COPIES = 16  # numbers for each entry of a factor: itself, its gradient, the optimizer's state, and copies of these


@dataclass
class FactoredOptions(AdapterOptions):
    rank: int = option("r", SIZE)
    dropout: float = option(
        "share of what A reads that is dropped while it trains; on transformers models only",
        FRACTION,
        default=0.0,
        per_run=True,
    )
    start_from: str | None = option(
        "a folder that PEFT or runner.export wrote: the run starts there and `init` is not used; on transformers models only",
        default=None,
    )
    freeze: str | None = option(
        "A or B: the factor, or VeRA's vector, that stays where its init puts it (LoRA-FA and its mirror); null: both train",
        choices("A", "B"),
        per_run=True,
        before=None,
    )


class Factored(Adapter):
    """y = added + g∘(W0·x + outer·inner·x) with the two factors, and the gain g, functions of what trains.

    The arithmetic of a step sees the factors alone; their gradients go back to the parameters by autograd.
    """

    scale: Tensor  # (K,) s, in front of the features that are measured
    fused: ClassVar[bool] = True
    diagonal: ClassVar[bool] = False  # whether the first two parameters are diagonals, in front of frozen factors
    default_init: ClassVar[str] = "gaussian_A"

    @classmethod
    def check(cls, options: FactoredOptions, shapes: Shapes) -> None:
        if options.start_from is None:  # a folder may hold factors of twice a run's rank
            for layer, shape in shapes.items():
                check_rank("adapter.rank", options.rank, layer, shape)

    @classmethod
    def entries(cls, config: Config, shapes: Sequence[Shape]) -> int:
        return padded(config.adapter.rank) * sum(map(sum, shapes))

    @classmethod
    def numbers(cls, config: Config, shapes: Sequence[Shape]) -> int:
        return COPIES * padded(config.adapter.rank) * pairs(config) * sum(map(sum, shapes))

    @abstractmethod
    def factors(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """inner (K, q, n_in) and outer (K, n_out, q), which holds the scale, for these values of the parameters."""

    @abstractmethod
    def learned(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """A (K, r, n_in) and B (K, n_out, r) whose features are measured, with `scale`: what is learned, without an offset."""

    def gain(self, inner: Tensor, outer: Tensor, parameters: Sequence[Tensor]) -> Tensor | None:
        """(K, n_out), or None where outputs are not scaled."""
        return None

    @torch.no_grad()
    def adds_nothing(self) -> Tensor:
        inner, outer, gain = self._current()
        inner, outer = inner.flatten(1), outer.flatten(1)
        finite = inner.isfinite().all(1) & outer.isfinite().all(1)
        nothing = finite & ~(inner.any(1) & outer.any(1))
        return nothing if gain is None else nothing & (gain == 1).all(1)

    def _current(self) -> tuple[Tensor, Tensor, Tensor | None]:
        parameters = list(self.parameters.values())
        inner, outer = self.factors(parameters)
        return inner, outer, self.gain(inner, outer, parameters)

    def __call__(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
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


def pairs(config: Config) -> int:
    """How many pairs of factors a run's step takes: two, where its frozen weight is W0 - s·B0·A0."""
    return 1 + INITS[config.init.name].residual(config.init)


def padded(rank: int) -> int:
    """What the fused step rounds a rank up to."""
    return -(-rank // 4) * 4

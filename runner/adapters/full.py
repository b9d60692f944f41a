"""Full finetuning: a weight W of each run's own in the place of the frozen one, the baseline of all that adapt it."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from runner.adapters.base import Adapter, Pair, Shape, adapter
from runner.config.schema import AdapterOptions, Config

KEPT = 5  # numbers for each entry of W: itself, its gradient, two moments, and W before the update
PASSING = 1  # for each entry of the largest layer: what an optimizer's step makes on its way
COPIED = 1, 3  # the same two, more, where gradients are clipped, or their noise is measured: in float64 on the way


@adapter("full", AdapterOptions)
class Full(Adapter):
    """y = W·x + b. W (K, n_out, n_in) starts at the frozen W0 and trains whole; b is what the frozen layer adds, and stays.

    A head, which has no frozen weight, is one, too: its W is drawn, and so is its bias b (K, n_out), which trains.
    """

    sides = MappingProxyType({"W": "AB"})
    common = ("W0",)
    default_init = "pretrained"
    peft_names = MappingProxyType({"W": "weight", "b": "bias"})  # of heads, PEFT's modules_to_save

    def __init__(self, W: Tensor, b: Tensor | None = None, W0: Tensor | None = None):
        self.parameters = {"W": W.requires_grad_()} | ({} if b is None else {"b": b.requires_grad_()})
        self.W0 = W0

    @classmethod
    def numbers(cls, config: Config, shapes: Sequence[Shape]) -> int:
        copied = config.optimizer.clip is not None or config.log.noise
        kept, passing = COPIED if copied else (0, 0)
        return (KEPT + kept) * cls.multiplied(shapes) + (PASSING + passing) * max(
            n_out * n_in for n_out, n_in in shapes
        )

    @classmethod
    def entries(cls, config: Config, shapes: Sequence[Shape]) -> int:
        return cls.multiplied(shapes)

    @classmethod
    def multiplied(cls, shapes: Sequence[Shape]) -> int:
        return sum(n_out * n_in for n_out, n_in in shapes)

    @classmethod
    def stack(
        cls, configs: Sequence[Config], layer: str, W0: Tensor, drawn: list[Tensor], offset: Pair | None, shared: Any
    ) -> "Full":
        return cls(*drawn, W0=W0)

    @torch.no_grad()
    def adds_nothing(self) -> Tensor:
        W, W0 = self.parameters["W"], self.W0
        return super().adds_nothing() if W0 is None else (W == W0).flatten(1).all(1)

    def __call__(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        return self._output(x.expand(len(self.parameters["W"]), *x.shape), added)

    def folded(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        W = self.parameters["W"]
        y = self._output(x.reshape(len(W), -1, W.shape[2]).to(W.dtype), added)
        return y.view(y0.shape).to(y0.dtype)

    def _output(self, x: Tensor, added: Tensor | None) -> Tensor:
        """(K, N, n_in) -> (K, N, n_out)."""
        y, b = x @ self.parameters["W"].mT, self.parameters.get("b")
        if b is not None:
            return y.add_(b[:, None])
        return y if added is None else y.add_(added)

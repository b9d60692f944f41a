"""What all adapters share, and the two plainest: LoRA, and a head that is trained in full.

On the toys all runs share x and y0, and `adapter(x, y0)` is (K, N, n_out). Inside a model every run has its own: K runs are
folded into the batch dimension, run after run, and `adapter.folded(x, y0)` unfolds them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from runner.adapters.products import AddFolded, AddProduct, GainFolded, GainProduct


class Adapter(ABC):
    """What trains at one layer, K runs at once.

    `parameters`: name -> tensor (K, …). `sides` says which of them lie on the output side ("B"), where the learning rate is
    `optimizer.lr_ratio` times that of the input side ("A").
    """

    parameters: dict[str, Tensor]
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

    fused: ClassVar[bool] = True  # whether `runner.fused` can train it: it knows no gain

    @abstractmethod
    def factors(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """inner (K, q, n_in) and outer (K, n_out, q), which holds the scale, for these values of the parameters."""

    @abstractmethod
    def learned(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """A (K, r, n_in) and B (K, n_out, r) whose features are measured, with `scale`: what is learned, without an offset."""

    def gain(self, inner: Tensor, outer: Tensor, parameters: Sequence[Tensor]) -> Tensor | None:
        """(K, n_out), or None where outputs are not scaled."""
        return None

    def _now(self) -> tuple[Tensor, Tensor, Tensor | None]:
        parameters = list(self.parameters.values())
        inner, outer = self.factors(parameters)
        return inner, outer, self.gain(inner, outer, parameters)

    def __call__(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, n_in), (N, n_out), both shared by all runs -> (K, N, n_out). `added` (N, n_out), as in `folded`."""
        inner, outer, gain = self._now()
        runs, q, _ = inner.shape
        # x is the same for every run, so all K·q rows of the inner factors meet it in one matrix product.
        Z = (x @ inner.flatten(0, 1).T).view(-1, runs, q).transpose(0, 1)
        if gain is None:
            return AddProduct.apply(y0, Z, outer)
        return GainProduct.apply(y0, y0 if added is None else y0 - added, Z, outer, gain)

    def folded(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        inner, outer, gain = self._now()
        if gain is None:
            return AddFolded.apply(y0, x, inner, outer)
        return GainFolded.apply(y0, x, inner, outer, gain, added)


class LoRA(Factored):
    """y = y0 + s·B·A·x (Hu et al. 2021), for K runs.

    A (K, r, n_in), B (K, n_out, r), scale s (K,). With an `offset` (A0, B0) of the same shapes the frozen weight is
    W0 - s·B0·A0, and y = y0 + s·(B·A - B0·A0)·x: a run with a weight of its own needs none of size n_out × n_in.
    """

    sides = MappingProxyType({"A": "A", "B": "B"})

    def __init__(self, A: Tensor, B: Tensor, scale: Tensor, offset: tuple[Tensor, Tensor] | None = None):
        self.A = A.requires_grad_()
        self.B = B.requires_grad_()
        self.scale, self.offset = scale, offset

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def factors(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        A, B = parameters[:2]
        if self.offset is not None:
            A, B = torch.cat([A, self.offset[0]], 1), torch.cat([B, -self.offset[1]], 2)
        return A, B * self.scale[:, None, None]

    def learned(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return parameters[0], parameters[1]


class Dense(Adapter):
    """y = W·x + b in the place of a frozen layer: a head that each run trains in full. W (K, n_out, n_in), b (K, n_out)."""

    def __init__(self, W: Tensor, b: Tensor | None):
        self.parameters = {"W": W.requires_grad_()} | ({} if b is None else {"b": b.requires_grad_()})

    def folded(self, x: Tensor, y0: Tensor, added: Tensor | None = None) -> Tensor:
        W, b = self.parameters["W"], self.parameters.get("b")
        y = x.reshape(len(W), -1, W.shape[2]).to(W.dtype) @ W.mT
        return (y if b is None else y + b[:, None]).view(y0.shape).to(y0.dtype)

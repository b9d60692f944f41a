"""The inputs and outputs of an initialization, and how one is declared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from runner.config.registry import INITS
from runner.config.schema import InitOptions


@dataclass(frozen=True)
class Calibration:
    """Statistics of a layer of the frozen model over some training examples: x̄ (n_in,) and the mean of x·xᵀ (n_in, n_in) of its
    inputs, and G = ∂L/∂W (n_out, n_in) of the mean loss, each where it was asked for."""

    mean: Tensor | None = None
    moment: Tensor | None = None
    gradient: Tensor | None = None


@dataclass
class Layer:
    """The layer for which a run draws its start.

    `scale` is s, `calibration` what an init that needs data asked for. What does not depend on the run is computed once for
    all runs of a stack by `cached`, under a key that names what it depends on.
    """

    W0: Tensor  # (n_out, n_in), float32 or float64, on the CPU
    rank: int
    scale: float
    generator: Generator
    calibration: Calibration | None = None
    cache: dict[Any, Any] = field(default_factory=dict)

    def cached(self, key: Any, compute: Callable[[], Any]) -> Any:
        """`compute()`, or what it was under this key."""
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U, S, Vᵀ of W0, singular values falling."""
        return self.cached("svd of W0", lambda: torch.linalg.svd(self.W0, full_matrices=False))


class Start(NamedTuple):
    """A (r, n_in) and B (n_out, r), or VeRA's d (r,) and b (n_out,); or W (n_out, n_in) alone.

    `base` (n_out, n_in) takes the place of W0 for all runs of the stack; `frozen` names parameters that do not train.
    """

    A: Tensor | None = None
    B: Tensor | None = None
    W: Tensor | None = None
    base: Tensor | None = None
    frozen: tuple[str, ...] = ()

    @property
    def drawn(self) -> dict[str, Tensor]:
        """The parameters that there are, in the order of the adapter's."""
        return {name: t for name, t in (("A", self.A), ("B", self.B), ("W", self.W)) if t is not None}


@dataclass(frozen=True)
class Init:
    """One initialization.

    `draw(layer, **options)`; `parameters`: what it draws; `zero`: which of these are zero at the start;
    `needs`: "inputs" or "gradient" of the frozen model;
    `residual(options)`: whether the frozen weight is W0 - s·B·A, so that training starts at W0 all the same;
    `replaces`: whether it gives a `Start.base`; `unsupported(rank, shape, options)`: why it cannot be drawn there, or None;
    `ranks(calibration, rank, options)`: layer -> rank, where it spreads them over the layers.
    """

    draw: Callable[..., Start]
    parameters: tuple[str, ...] = ("A", "B")
    zero: tuple[str, ...] = ()
    needs: str | None = None
    residual: Callable[[Any], bool] = lambda options: False
    replaces: bool = False
    unsupported: Callable[[int, tuple[int, int], Any], str | None] = lambda rank, shape, options: None
    ranks: Callable[[dict[str, Calibration], int, Any], dict[str, int]] | None = None


def init(
    options: type[InitOptions] = InitOptions, **properties: Any
) -> Callable[[Callable[..., Start]], Callable[..., Start]]:
    """Declare the function as an init under its name, with the dataclass of its options and the properties of an `Init`."""

    def declare(draw: Callable[..., Start]) -> Callable[..., Start]:
        INITS.declare(draw.__name__, Init(draw, **properties), options)
        return draw

    return declare


def always(options: Any) -> bool:
    return True

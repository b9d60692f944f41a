"""VeRA (Kopiczko et al. 2024, arXiv 2310.11454): two frozen random factors, shared by all layers, and two vectors a layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from runner.adapters.base import Pair, Shape, Shapes, adapter
from runner.adapters.factored import Factored, FactoredOptions
from runner.config.options import AT_LEAST_0, option
from runner.config.schema import Config


@dataclass
class VeRAOptions(FactoredOptions):
    projection_key: int | None = option(
        "of the random numbers of A and B, as PEFT's projection_prng_key; null: the run's seed",
        AT_LEAST_0,
        per_run=True,
    )


@adapter("vera", VeRAOptions)
class VeRA(Factored):
    """y = y0 + b∘(B·(d∘(A·x))): d (K, r) and b (K, n_out) train; there is no alpha. r is the length of d, and no rank.

    `pair`: frozen A (K, r, N_in) and B (K, N_out, r), a pair a run, for the largest layer; a smaller one reads their first
    columns and rows.
    """

    sides = MappingProxyType({"d": "A", "b": "B"})
    diagonal = True
    default_init = "vera_b0"
    peft = MappingProxyType({"peft_type": "VERA"})
    peft_names = MappingProxyType({"d": "vera_lambda_d", "b": "vera_lambda_b"})
    peft_pair = ("base_model.vera_A", "base_model.vera_B")

    def __init__(self, d: Tensor, b: Tensor, pair: Pair, n_in: int):
        self.d, self.b = d.requires_grad_(), b.requires_grad_()
        self.pair = pair
        self.A, self.B = pair[0][:, :, :n_in], pair[1][:, : b.shape[1]]
        self.scale = torch.ones_like(d[:, 0])

    @classmethod
    def check(cls, options: VeRAOptions, shapes: Shapes) -> None:
        return None

    @classmethod
    def shared(
        cls,
        configs: Sequence[Config],
        shapes: Shapes,
        tensors: Mapping[str, Mapping[str, Tensor]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Pair:
        """The frozen pair of each run, as large as the largest layer: drawn, or as the folder that a run starts from has it."""
        n_out, n_in = (max(shape[side] for shape in shapes.values()) for side in (0, 1))
        keys = [c.seed if c.adapter.projection_key is None else c.adapter.projection_key for c in configs]
        drawn = {key: projections(key, configs[0].adapter.rank, n_out, n_in) for key in set(keys)}
        folders = [tensors.get(c.adapter.start_from, {}) for c in configs]

        def stacked(side: int) -> Tensor:
            pairs = zip(folders, keys, strict=True)
            factors = [found.get(cls.peft_pair[side], drawn[key][side]) for found, key in pairs]
            return torch.stack(factors).to(device, dtype)

        return stacked(0), stacked(1)

    @classmethod
    def stack(
        cls, configs: Sequence[Config], layer: str, W0: Tensor, drawn: list[Tensor], offset: Pair | None, shared: Any
    ) -> "VeRA":
        return cls(*drawn, shared, W0.shape[1])

    @classmethod
    def entries(cls, config: Config, shapes: Sequence[Shape]) -> int:
        return sum(config.adapter.rank + n_out for n_out, _ in shapes)

    def frozen_factors(self, layer: str, k: int) -> dict[str, Tensor]:
        return {"projection.A": self.pair[0][k], "projection.B": self.pair[1][k]}

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"d": self.d, "b": self.b}

    def factors(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        d, b = parameters
        return d[:, :, None] * self.A, b[:, :, None] * self.B

    def learned(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.factors(parameters)


def projections(key: int, rank: int, n_out: int, n_in: int) -> Pair:
    """The frozen pair A (r, n_in), B (n_out, r) ~ U(-b, b) with b = √(6 / fan_in), of variances 2/n_in and 2/r.

    To the bit what PEFT draws for `projection_prng_key=key`.
    """
    g = torch.Generator().manual_seed(key)

    def draw(*shape: int) -> Tensor:
        bound = math.sqrt(3) * (math.sqrt(2) / math.sqrt(shape[1]))  # rounded as PEFT rounds it
        return torch.empty(*shape).uniform_(-bound, bound, generator=g)

    return draw(rank, n_in), draw(n_out, rank)

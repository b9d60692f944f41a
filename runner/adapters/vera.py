"""VeRA (Kopiczko et al. 2024, arXiv 2310.11454): two frozen random factors, shared by all layers, and two vectors a layer."""

import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from runner.adapters.stacked import Factored


class VeRA(Factored):
    """y = y0 + b∘(B·(d∘(A·x))): d (K, r) and b (K, n_out) train; there is no alpha.

    `pair`: frozen A (K, r, N_in) and B (K, N_out, r), a pair a run, for the largest layer; a smaller one reads their first
    columns and rows.
    """

    sides = MappingProxyType({"d": "A", "b": "B"})

    def __init__(self, d: Tensor, b: Tensor, pair: tuple[Tensor, Tensor], n_in: int):
        self.d, self.b = d.requires_grad_(), b.requires_grad_()
        self.pair = pair
        self.A, self.B = pair[0][:, :, :n_in], pair[1][:, : b.shape[1]]
        self.scale = torch.ones_like(d[:, 0])

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"d": self.d, "b": self.b}

    def factors(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        d, b = parameters
        return d[:, :, None] * self.A, b[:, :, None] * self.B

    def learned(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.factors(parameters)


def projections(key: int, rank: int, n_out: int, n_in: int) -> tuple[Tensor, Tensor]:
    """The frozen pair A (r, n_in), B (n_out, r) ~ U(-b, b) with b = √(6 / fan_in), of variances 2/n_in and 2/r.

    To the bit what PEFT draws for `projection_prng_key=key`.
    """
    g = torch.Generator().manual_seed(key)

    def draw(*shape: int) -> Tensor:
        bound = math.sqrt(3) * (math.sqrt(2) / math.sqrt(shape[1]))  # rounded as PEFT rounds it
        return torch.empty(*shape).uniform_(-bound, bound, generator=g)

    return draw(rank, n_in), draw(n_out, rank)

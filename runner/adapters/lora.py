"""LoRA (Hu et al. 2021, arXiv 2106.09685), and rsLoRA, which scales its product otherwise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from runner.adapters.base import Pair, adapter
from runner.adapters.factored import Factored, FactoredOptions
from runner.config.options import POSITIVE, option
from runner.config.schema import Config


@dataclass
class LoRAOptions(FactoredOptions):
    alpha: float = option("numerator of the scale s", POSITIVE, per_run=True)


@adapter("lora", LoRAOptions)
class LoRA(Factored):
    """y = y0 + s·B·A·x, s = alpha/r, for K runs.

    A (K, r, n_in), B (K, n_out, r), scale s (K,). With an `offset` (A0, B0) of the same shapes the frozen weight is
    W0 - s·B0·A0, and y = y0 + s·(B·A - B0·A0)·x: a run with a weight of its own needs none of size n_out × n_in.
    """

    sides = MappingProxyType({"A": "A", "B": "B"})
    peft = MappingProxyType({"peft_type": "LORA", "use_rslora": False, "use_dora": False})
    peft_names = MappingProxyType({"A": "lora_A.weight", "B": "lora_B.weight"})

    def __init__(self, A: Tensor, B: Tensor, scale: Tensor, offset: Pair | None = None):
        self.A = A.requires_grad_()
        self.B = B.requires_grad_()
        self.scale, self.offset = scale, offset

    @staticmethod
    def scale_at(alpha: float, rank: int) -> float:
        """s."""
        return alpha / rank

    @staticmethod
    def alpha_at(scale: float, rank: int) -> float:
        """The alpha that gives this scale at this rank."""
        return scale * rank

    @classmethod
    def scale_of(cls, options: LoRAOptions) -> float:
        return cls.scale_at(options.alpha, options.rank)

    @classmethod
    def stack(
        cls, configs: Sequence[Config], layer: str, W0: Tensor, drawn: list[Tensor], offset: Pair | None, shared: Any
    ) -> "LoRA":
        return cls(*drawn, cls._scales(configs, drawn[0]), offset)

    @classmethod
    def _scales(cls, configs: Sequence[Config], like: Tensor) -> Tensor:
        return torch.tensor([cls.scale_of(c.adapter) for c in configs], dtype=like.dtype, device=like.device)

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

    def frozen_factors(self, layer: str, k: int) -> dict[str, Tensor]:
        if self.offset is None or not self.offset[0][k].any():
            return {}
        return {f"{layer}.A0": self.offset[0][k], f"{layer}.B0": self.offset[1][k]}


@adapter("rslora", LoRAOptions)
class RsLoRA(LoRA):
    """LoRA with s = alpha/√r, whose product keeps its size as r grows (Kalajdzievski 2023, arXiv 2312.03732)."""

    peft = MappingProxyType({"peft_type": "LORA", "use_rslora": True, "use_dora": False})

    @staticmethod
    def scale_at(alpha: float, rank: int) -> float:
        return alpha / math.sqrt(rank)

    @staticmethod
    def alpha_at(scale: float, rank: int) -> float:
        return scale * math.sqrt(rank)

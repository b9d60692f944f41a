"""DoRA (Liu et al. 2024, arXiv 2402.09353): a weight's rows are directions, and their lengths train on their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from runner.adapters.base import Pair, Shape, Shapes, adapter
from runner.adapters.lora import LoRA, LoRAOptions
from runner.config.options import SWITCH, ConfigError, Switch, option
from runner.config.schema import Config


class WeightRows:
    """Lengths of the rows of W0 + outer·inner, from the factors: nothing of size n_out × n_in is formed for a run."""

    def __init__(self, W0: Tensor, dtype: torch.dtype):
        self.W0 = W0
        at_least = torch.promote_types(W0.dtype, dtype)  # a base that an init replaced may be of float64
        self.squares = torch.linalg.vector_norm(W0, dim=1, dtype=at_least).square().to(dtype)  # (n_out,)

    def cross(self, inner: Tensor) -> Tensor:
        """inner·W0ᵀ: (K, q, n_in) -> (K, q, n_out)."""
        return (inner.flatten(0, 1) @ self.W0.to(inner.dtype).T).view(*inner.shape[:2], -1)

    def norms(self, inner: Tensor, outer: Tensor) -> Tensor:
        """(K, n_out): ‖w + Σ_q o_q·a_q‖² = ‖w‖² + 2·Σ_q o_q·(a_q·w) + oᵀ(inner·innerᵀ)o, a row w of W0 with its row o."""
        terms = 2 * self.cross(inner).mT + outer @ (inner @ inner.mT)
        return (self.squares + (outer * terms).sum(2)).clamp_min(0).sqrt()


@dataclass
class DoRAOptions(LoRAOptions):
    norm_gradient: Switch = option(
        "whether gradients pass ‖V‖; false takes it for a constant, as the paper proposes (4.3) and PEFT does",
        SWITCH,
    )


@adapter("dora", DoRAOptions)
class DoRA(LoRA):
    """y = m∘(V·x) / ‖V‖ with V = W0 + s·B·A and ‖V‖ the lengths of its rows, one for each output.

    m (K, n_out) starts at ‖V‖, so that the start is LoRA's. In gradients ‖V‖ counts as a constant (section 4.3 of the paper),
    unless `norm_gradient` asks for the full one. The paper writes weights transposed and says columns; rows of an nn.Linear
    are what PEFT takes.
    """

    sides = MappingProxyType({"A": "A", "B": "B", "m": "B"})  # m lies on the output side, as in PEFT's LoRA+
    common = ("rows",)
    fused, rescales = False, True
    peft = MappingProxyType({"peft_type": "LORA", "use_rslora": False, "use_dora": True})
    peft_names = MappingProxyType({**LoRA.peft_names, "m": "lora_magnitude_vector"})

    @classmethod
    def entries(cls, config: Config, shapes: Sequence[Shape]) -> int:
        return super().entries(config, shapes) + sum(n_out for n_out, _ in shapes)

    @classmethod
    def check(cls, options: DoRAOptions, shapes: Shapes) -> None:
        super().check(options, shapes)
        if options.dropout:
            raise ConfigError(
                f"adapter.dropout={options.dropout}: adapter=dora takes 0; what is dropped would have to pass W0 once more"
            )

    def __init__(self, A: Tensor, B: Tensor, scale: Tensor, offset: Pair | None, W0: Tensor, norm_gradient: bool):
        super().__init__(A, B, scale, offset)
        self.rows, self.norm_gradient = WeightRows(W0, A.dtype), norm_gradient
        with torch.no_grad():
            self.m = self.rows.norms(*self.factors([A, B]))
        self.m.requires_grad_()

    @classmethod
    def stack(
        cls, configs: Sequence[Config], layer: str, W0: Tensor, drawn: list[Tensor], offset: Pair | None, shared: Any
    ) -> "DoRA":
        stacked = cls(*drawn, cls._scales(configs, drawn[0]), offset, W0, configs[0].adapter.norm_gradient)
        if not stacked.m.all():
            raise ConfigError(
                f"adapter=dora: a row of the weight of layer {layer} is zero, which has no direction; choose another adapter or "
                "task"
            )
        return stacked

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B, "m": self.m}

    def gain(self, inner: Tensor, outer: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        with torch.set_grad_enabled(self.norm_gradient and torch.is_grad_enabled()):
            norms = self.rows.norms(inner, outer)
        return parameters[2] / norms

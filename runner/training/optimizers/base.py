"""What all optimizers share: one update of K runs, each with its own learning rate and hyperparameters.

They are written in operations that IEEE 754 rounds exactly (no `lerp`, no `addcmul`), so that a run gets the same bits
wherever in a stack it stands.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from runner.config.options import AT_LEAST_0, NOT_NEGATIVE, POSITIVE, Allowed, choices, numbers, option
from runner.config.registry import OPTIMIZERS
from runner.config.schema import OptimizerOptions
from runner.training.optimizers.schedules import SCHEDULES


@dataclass
class CommonOptions(OptimizerOptions):
    lr: float = option("learning rate, of A", POSITIVE, per_run=True)
    lr_ratio: float = option("lr_B / lr_A (LoRA+)", POSITIVE, per_run=True)
    weight_decay: float = option(
        "decoupled, but for sgd, where it is added to the gradient", NOT_NEGATIVE, per_run=True
    )
    schedule: str = option("of the learning rate over the steps", choices(*SCHEDULES), per_run=True)
    warmup: int = option("steps of linear warm-up before the schedule", AT_LEAST_0, per_run=True)
    clip: float | None = option(
        "largest norm of a run's gradient over all that it trains; null does not clip", POSITIVE, per_run=True
    )
    riemannian: float | None = option(
        "ρ of Riemannian preconditioning, by which gradients of A and B are multiplied by (BᵀB + ρI)^-1 and (AAᵀ + ρI)^-1; null: "
        "none",
        numbers(1e-12, 1e12),  # beyond, float32 overflows
        per_run=True,
        before=None,
    )
    shrink: float | None = option(
        "λ by which A ← (1 - λ)·A before an update, while ‖A‖ is at least its share of ‖B‖ by entries (Stable-LoRA); null: none",
        Allowed("above 0 and below 1", lambda x: 0 < x < 1),
        per_run=True,
        before=None,
    )


# What the update itself does not take.
IN_THE_LOOP = ("name", "lr", "lr_ratio", "schedule", "warmup", "clip", "riemannian", "shrink")


class Optimizer(ABC):
    """Updates parameters (K, …) in place; `state` names the tensors that it carries from step to step.

    Its hyperparameters are the fields of its options but for those IN_THE_LOOP, as attributes (K,). `of_pairs`: whether it takes
    factors A and B alone, and updates them together.
    """

    of_pairs: ClassVar[bool] = False

    def __init__(self, parameters: Sequence[Tensor], **hyperparameters: Tensor):
        self.parameters = parameters
        vars(self).update(hyperparameters)

    @classmethod
    def check(cls, options: CommonOptions) -> None:
        """Raise ConfigError where these options do not go together."""
        return

    @property
    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Name -> tensor."""

    @abstractmethod
    def step(self, gradients: Sequence[Tensor], lrs: Tensor) -> None:
        """One update, with gradients (K, …) and learning rates (parameters, K)."""

    def preconditioner(self, gradients: Sequence[Tensor]) -> list[Tensor] | None:
        """P (K, …) by which the last update, with these gradients, divided a mean of gradients, infinite or 0 where nothing can
        have moved; None: by nothing."""
        return None


def optimizer(name: str, options: type[CommonOptions]) -> Callable[[type[Optimizer]], type[Optimizer]]:
    """Declare the class as an optimizer under this name, with the dataclass of its options."""

    def declare(kind: type[Optimizer]) -> type[Optimizer]:
        OPTIMIZERS.declare(name, kind, options)
        return kind

    return declare


def build(configs: Sequence[CommonOptions], parameters: Sequence[Tensor]) -> Optimizer:
    """The stacked optimizer of K runs, which share a name, over parameters (K, …)."""
    names = [field.name for field in fields(OPTIMIZERS.options[configs[0].name]) if field.name not in IN_THE_LOOP]
    values = {
        name: torch.tensor([getattr(c, name) for c in configs], dtype=torch.float64, device=parameters[0].device)
        for name in names
    }
    return OPTIMIZERS[configs[0].name](parameters, **values)


def mask_frozen(gradients: Sequence[Tensor], trains: Tensor) -> list[Tensor]:
    """Each parameter's gradients (K, …), zero for the runs that do not train it; `trains` (parameters, K)."""
    return [torch.where(per_run(row, g) != 0, g, 0) for g, row in zip(gradients, trains, strict=True)]


def per_run(values: Tensor, like: Tensor) -> Tensor:
    """(K,) -> (K, 1, …), in the shape and dtype that broadcast against `like` (K, …)."""
    return values.to(like).view(-1, *[1] * (like.dim() - 1))

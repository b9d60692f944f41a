"""What is measured of a layer without its adapter: a function a column, of the probe alone.

The probe is that of the stack from its start to its end, so each number is the same for all of its runs and steps, and is
computed once. Features of the adapter are compared with it: feature/Z_A with feature/Z, feature/Z_B with feature/Y0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from runner.core.exact import sqrt_, total
from runner.tasks.base import Probe

FROZEN: dict[str, Callable[[Probe], Tensor]] = {}


def frozen(column: str) -> Callable[[Callable[[Probe], Tensor]], Callable[[Probe], Tensor]]:
    """Measure the function once, and put its number () into every row, as this column."""

    def declare(measure: Callable[[Probe], Tensor]) -> Callable[[Probe], Tensor]:
        FROZEN[column] = measure
        return measure

    return declare


def measured(probe: Probe) -> Tensor:
    """(columns, 1), for every run."""
    return torch.stack([measure(probe) for measure in FROZEN.values()])[:, None]


@frozen("feature/Z")
def feature_Z(probe: Probe) -> Tensor:
    """Size of Z."""
    return size(probe.Z)


@frozen("feature/Y0")
def feature_Y0(probe: Probe) -> Tensor:
    """Size of Y0 = W0·Z."""
    return size(probe.Y0)


def size(x: Tensor) -> Tensor:
    """Mean over the rows of x (P, q) of the root mean square of their entries, in float64, the same bits everywhere."""
    return total(sqrt_(total(x.double().square()) / x.shape[1])) / len(x)

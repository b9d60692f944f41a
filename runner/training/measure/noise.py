"""How much of a gradient is noise of the examples that a step saw, from the gradients of the parts of its batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.training.measure.metrics import norm


def columns(parameters: Sequence[str]) -> list[str]:
    """Of a layer with these parameters."""
    return [f"noise/{name}" for name in parameters]


def noise(squares: Tensor, gradient: Tensor, parts: int) -> Tensor:
    """(K,) tr(Σ)/b over ‖ḡ‖², float64: the share of a gradient's square that is expected to be sampling noise, of the mean ḡ over
    b examples of which each has covariance Σ (McCandlish et al. 2018, appendix A.1: from batches of two sizes).

    `squares` (K,): Σ‖g_i/m‖² over the gradients g_i of m parts of b/m examples each; `gradient` (K, …): ḡ, their mean. As E‖ḡ‖² =
    ‖E g‖² + tr(Σ)/b and E‖g_i‖² = ‖E g‖² + m·tr(Σ)/b, it is (mean‖g_i‖² - ‖ḡ‖²) / ((m - 1)‖ḡ‖²): 0 where all parts agree, about 1
    where they have nothing in common. nan where ḡ is zero.
    """
    whole = norm(gradient).square()
    return torch.where(whole > 0, (parts * squares.double() - whole) / ((parts - 1) * whole), torch.nan)

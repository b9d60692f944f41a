"""How far the rows of a weight have moved from where they were."""

import torch
from torch import Tensor

CHANGES = ("change/magnitude", "change/direction")


def moved(w: Tensor, along: Tensor, change: Tensor, magnitudes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far lengths and directions have moved, in the mean over the n_out rows: (K,), (K,).

    Of rows w that became v = w + d, from the lengths ‖w‖ (n_out,), the products d·w and the squares ‖d‖² (K, n_out), float64:
    | ‖v‖ - ‖w‖ |, or | |m| - ‖w‖ | for DoRA's `magnitudes` m (K, n_out), and 1 - cos(v, w) (Liu et al. 2024, equations 3 and
    4). Of the part of the change across w rather than of cosines, which near 1 have no digits.
    """
    square = (w.square() + 2 * along + change).clamp_min(0)
    norm = square.sqrt()
    magnitude = (2 * along + change) / (norm + w) if magnitudes is None else magnitudes.double().abs() - w
    across = (change - (along / w).square()).clamp_min(0)
    cosine = (w + along / w) / norm
    direction = torch.where(cosine > 0, across / square / (1 + cosine), 1 - cosine)
    return magnitude.abs().mean(1), direction.mean(1)

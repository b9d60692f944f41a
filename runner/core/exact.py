"""Arithmetic in float32 and float64 whose bits depend on neither the library, nor the processor, nor the number of threads."""

import math

import numpy as np
import torch
from torch import Tensor

MANTISSA = 53  # bits of a float64
COLUMNS = 1024  # of Y at a time: the slices take four times the memory of what they stand for
ROWS = 256  # of X at a time: what is done to its slices is done in the caches


def product(X: Tensor, Y: Tensor) -> Tensor:
    """X (N, q) times Y (q, p) or (q,) -> float64 (N, p) or (N,), the same bits everywhere.

    Libraries add in orders of their own, and round differently. Here no sum is rounded: every row of X and column of Y is
    written in units of its largest entry as a sum of two slices of b-bit integers, and b is so small that sums of q of
    their products are integers that float64 holds. What lies beyond 2b bits is dropped: b = 21 for q <= 1024, so that the
    result is good to about q·2^-40 of the largest entries' product, and rounds to the nearest float32 (Ozaki et al. 2012,
    "Error-free transformations of matrix multiplication by using fast routines of matrix multiplication").
    """
    if Y.dim() == 1:
        return product(X, Y[:, None])[:, 0]
    bits = (MANTISSA - math.ceil(math.log2(2 * max(1, len(Y))))) // 2
    out = X.new_empty(len(X), Y.shape[1], dtype=torch.float64)
    for columns, out_columns in zip(Y.split(COLUMNS, dim=1), out.split(COLUMNS, dim=1), strict=True):
        top, rest, scale = _slices(columns.double(), bits, dim=0)
        for rows, block in zip(X.split(ROWS), out_columns.split(ROWS), strict=True):
            high, low, unit = _slices(rows.double(), bits, dim=1)
            # high·top, and the sum of the two products that are 2^b times smaller; low·rest is dropped.
            smaller = (low @ top).addmm_(high, rest)
            torch.add(high @ top, smaller, alpha=2.0**-bits, out=block).mul_(unit * scale)
    return out


def _slices(X: Tensor, bits: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integers high and low, at most 2^bits, and units, powers of 2, with X ≈ (high + low·2^-bits)·unit along `dim`."""
    _, exponent = torch.frexp(X.abs().amax(dim, keepdim=True))
    unit = torch.ldexp(torch.ones_like(exponent, dtype=X.dtype), exponent - bits)
    scaled = X / unit
    high = scaled.round()
    return high, scaled.sub_(high).mul_(2.0**bits).round_(), unit


def total(x: Tensor) -> Tensor:
    """Sum over the last dimension: halves are added to halves, down to one, so that every machine rounds alike."""
    while (length := x.shape[-1]) > 1:
        half = length // 2
        left, right, rest = x.split([half, half, length - 2 * half], dim=-1)
        x = torch.cat([left + right, rest], dim=-1)
    return x[..., 0]


def sqrt_(x: Tensor) -> Tensor:
    """√x in place, the nearest number to it; x is no part of a graph.

    On the CPU torch takes MKL's, which is one unit off in places that depend on the processor (in none, 0.6% or 19% of
    float32); the processor's own instruction, which NumPy takes, rounds as IEEE 754 asks. So do those of GPUs.
    """
    # Lower precisions torch itself computes in float32 and rounds again; of other devices NumPy knows nothing.
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return x.sqrt_()
    with np.errstate(invalid="ignore"):
        np.sqrt(x.numpy(), out=x.numpy())
    return x

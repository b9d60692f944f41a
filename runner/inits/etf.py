"""Equiangular tight frames: unit vectors whose pairwise angles are all the same, and as wide as can be."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.config.options import choices, option
from runner.config.schema import InitOptions
from runner.core.rng import orthonormal
from runner.inits.base import Layer, Start, init


def has_frame(d: int, N: int) -> bool:
    """Whether `frame(d, N)` knows N vectors in d dimensions.

    Known are an orthonormal basis (N = d), a simplex (N = d + 1), and the real frames of 4^m vectors that the Hadamard difference
    sets of Z_2^2m give (d = 2^(m-1)·(2^m ± 1)); most (d, N) have none at all.
    """
    m = round(math.log(N, 4)) if N > 1 else 0
    return d >= 2 and (N in (d, d + 1) or (N == 4**m and 2 * d in (2**m * (2**m - 1), 2**m * (2**m + 1))))


def frame(d: int, N: int) -> Tensor:
    """F (d, N), float64, with unit columns, |f_i·f_j| the same for all i ≠ j, and F·Fᵀ = (N/d)·I."""
    if N == d:
        return torch.eye(d, dtype=torch.float64)
    if N == d + 1:
        # The rows of an orthonormal basis of the complement of (1, …, 1): Helmert's.
        F = torch.zeros(d, N, dtype=torch.float64)
        for i in range(1, N):
            F[i - 1, :i], F[i - 1, i] = 1.0, -i
            F[i - 1] /= math.sqrt(i * (i + 1))
        return F * math.sqrt(N / d)
    bits = N.bit_length() - 1  # 2m
    x = torch.arange(N)
    H = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(bits):  # Sylvester's: H_xy = (-1)^(x·y)
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    bent = sum((x >> 2 * i & 1) * (x >> 2 * i + 1 & 1) for i in range(bits // 2)) % 2  # x1·x2 + x3·x4 + …
    return H[bent == (1 if 2 * d < N else 0)] / math.sqrt(d)


def _refuses(rank: int, shape: tuple[int, int], options: Any) -> str | None:
    n_in, most = shape[1], min(shape)
    if options.vectors == "rows":
        return "takes ranks of at least 2: one vector has no angle" if rank < 2 else None
    if has_frame(rank, n_in):
        return None
    known = [d for d in range(2, most + 1) if has_frame(d, n_in)]
    nearest = min(known, key=lambda d: abs(d - rank), default=None)
    there = "no rank of this layer has one" if nearest is None else f"the nearest rank that has one is {nearest}"
    return f"knows no equiangular tight frame of {n_in} vectors in {rank} dimensions; {there}"


@dataclass
class ETFOptions(InitOptions):
    vectors: str = option(
        "rows: a simplex of r vectors in n_in dimensions; columns: n_in vectors in r dimensions, which few shapes have",
        choices("rows", "columns"),
    )


@init(ETFOptions, unsupported=_refuses, zero=("B",))
def etf(layer: Layer, vectors: str) -> Start:
    """A = an equiangular tight frame in a random position, with rows of length 1, as Init[A]'s are on average; B = 0.

    vectors=rows: its r rows are a simplex in n_in dimensions, with inner products -1/(r-1), so that they span r - 1 of them.
    vectors=columns: its n_in columns are a frame in r dimensions, which few shapes have. Of the paper (ICML 2026, "ding26k") we
    know only that A is an equiangular tight frame: the choice of vectors, the position and the length are ours.
    """
    n_out, n_in = layer.W0.shape
    r, g = layer.rank, layer.generator
    if vectors == "rows":
        A = frame(r - 1, r).T @ orthonormal(n_in, r - 1, generator=g).T
    else:
        F = orthonormal(r, r, generator=g) @ frame(r, n_in) * math.sqrt(r / n_in)
        A = F[:, torch.randperm(n_in, generator=g)]
    return Start(A, torch.zeros(n_out, r))

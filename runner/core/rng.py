"""Randomness: one named generator per purpose, so that runs under one seed share what they should, to the bit.

`base` draws frozen weights, `data` the inputs and targets, `init` the adapter. Two inits under one seed then share base
and data. Draws are float32 on the CPU and cast afterwards: a run's starting point depends on neither device nor dtype.
"""

import hashlib

import torch


def generator(seed: int, name: str) -> torch.Generator:
    """CPU generator of stream `name` under `seed`; distinct (seed, name) give independent streams."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def normal(*shape: int, variance: float, generator: torch.Generator) -> torch.Tensor:
    """N(0, variance) entries."""
    return torch.randn(*shape, generator=generator) * variance**0.5


def uniform(*shape: int, variance: float, generator: torch.Generator) -> torch.Tensor:
    """U(-b, b) entries of the given variance: b = √(3·variance)."""
    return (2 * torch.rand(*shape, generator=generator) - 1) * (3 * variance) ** 0.5


def orthonormal(n: int, r: int, generator: torch.Generator) -> torch.Tensor:
    """(n, r), float64, n >= r: orthonormal columns in a uniformly random position (Haar's measure).

    Q of a normal matrix' QR where R's diagonal is positive: as LAPACK gives it, Q's signs follow from its algorithm, and its
    position is not uniform (Mezzadri 2007, "How to generate random matrices from the classical compact groups").
    """
    Q, R = torch.linalg.qr(normal(n, r, variance=1, generator=generator).double())
    return Q * torch.where(R.diagonal() < 0, -1.0, 1.0)

"""Randomness: one named generator per purpose, so that runs under one seed share what they should, to the bit.

`base` draws frozen weights, `data` the inputs and targets, `init` the adapter. Two inits under one seed then share base
and data. Draws are float32 on the CPU and cast afterwards: a run's starting point depends on neither device nor dtype.
"""

import hashlib
from collections.abc import Sequence

import torch


def key(seed: int, name: str) -> int:
    """64 bits, signed, that name stream `name` under `seed`; distinct (seed, name) give independent streams."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big", signed=True)


def generator(seed: int, name: str) -> torch.Generator:
    """CPU generator of stream `name` under `seed`."""
    return torch.Generator().manual_seed(key(seed, name))


WORD = 2**32 - 1
ROUNDS, FACTORS, STEPS = 10, (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[torch.Tensor | int], key: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Four words of 32 random bits for each counter of four words under a key of two (int64 tensors of words, broadcast).

    Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), on any device.
    """
    (a, b, c, d), (first, second) = counter, key
    for _ in range(ROUNDS):
        x, y = FACTORS[0] * a, FACTORS[1] * c  # 64 bits; what int64 calls their sign is a bit as others
        a, b, c, d = (y >> 32 & WORD) ^ b ^ first, y & WORD, (x >> 32 & WORD) ^ d ^ second, x & WORD
        first, second = first + STEPS[0] & WORD, second + STEPS[1] & WORD
    return [a, b, c, d]


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

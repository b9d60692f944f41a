"""Initializations: `(W0, rank, generator) -> (A, B)` with A (r, n_in), B (n_out, r), drawn on the CPU.

The docstring of each is its formula. `init.scale` multiplies the standard deviation of what is drawn here.
To add one: a function here, its row in INITS, a YAML file in conf/init, a row in tests/test_inits.py.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from runner.rng import normal, uniform

Factors = tuple[Tensor, Tensor]


def gaussian_A(W0: Tensor, rank: int, generator: Generator) -> Factors:
    """Init[A]: A_ij ~ N(0, 1/n_in), B = 0 (Hayou, Ghosh, Yu 2024)."""
    n_out, n_in = W0.shape
    return normal(rank, n_in, variance=1 / n_in, generator=generator), torch.zeros(n_out, rank)


def gaussian_B(W0: Tensor, rank: int, generator: Generator) -> Factors:
    """Init[B]: A = 0, B_ij ~ N(0, 1/r) (Hayou, Ghosh, Yu 2024)."""
    n_out, n_in = W0.shape
    return torch.zeros(rank, n_in), normal(n_out, rank, variance=1 / rank, generator=generator)


def kaiming_A(W0: Tensor, rank: int, generator: Generator) -> Factors:
    """PEFT's default: A_ij ~ U(-1/√n_in, 1/√n_in), so of variance 1/(3 n_in); B = 0."""
    n_out, n_in = W0.shape
    return uniform(rank, n_in, variance=1 / (3 * n_in), generator=generator), torch.zeros(n_out, rank)


def kaiming_B(W0: Tensor, rank: int, generator: Generator) -> Factors:
    """Mirror image of PEFT's default: A = 0; B_ij ~ U(-1/√r, 1/√r), so of variance 1/(3 r)."""
    n_out, n_in = W0.shape
    return torch.zeros(rank, n_in), uniform(n_out, rank, variance=1 / (3 * rank), generator=generator)


def zero(W0: Tensor, rank: int, generator: Generator) -> Factors:
    """A = 0 and B = 0, the control: both gradients vanish and nothing trains."""
    n_out, n_in = W0.shape
    return torch.zeros(rank, n_in), torch.zeros(n_out, rank)


INITS: dict[str, Callable[[Tensor, int, Generator], Factors]] = {
    init.__name__: init for init in (gaussian_A, gaussian_B, kaiming_A, kaiming_B, zero)
}

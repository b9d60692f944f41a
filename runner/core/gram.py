"""Algebra of r × r matrices made of the factors of K runs, in operations that give a run the same bits whatever runs are beside
it, and that a GPU can record. What is not finite in one run stays in it."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from runner.core.exact import sqrt_, total

COLUMNS = 64  # of the factors at a time: all products at once would not fit into the caches
SINGULAR = (
    2.0**-40
)  # of a Gram matrix' largest eigenvalue: what float32 leaves of a zero in a factor of hundreds of updates


def gram(Y: Tensor, X: Tensor | None = None) -> Tensor:
    """(K, q, n) and (K, r, n) -> Y·Xᵀ (K, q, r), float64; without X, Y·Yᵀ."""
    Y = Y.double().contiguous()
    X = Y if X is None else X.double().contiguous()
    sums = Y.new_zeros(*Y.shape[:2], X.shape[1], min(COLUMNS, Y.shape[2]))
    for y, x in zip(Y.split(COLUMNS, 2), X.split(COLUMNS, 2), strict=True):
        sums[..., : y.shape[2]].add_(y[:, :, None] * x[:, None])
    return total(sums)


def norm(X: Tensor) -> Tensor:
    """Frobenius norm (K,), float64."""
    return sqrt_(total(X.double().flatten(1).square()))


def small_product(M: Tensor, X: Tensor) -> Tensor:
    """M (K, q, r) times X (K, r, n), in the precision of X, summed in the order of the rows."""
    M, X = M.to(X), X.contiguous()
    product = M[:, :, :1] * X[:, :1]
    for j in range(1, X.shape[1]):
        product = product + M[:, :, j : j + 1] * X[:, j : j + 1]
    return product


def inverse(S: Tensor) -> Tensor:
    """(K, r, r), symmetric and positive definite, which needs no pivots: by Gauss and Jordan."""
    S = S.clone()
    for j in range(S.shape[-1]):
        pivot, column = S[:, j, j].clone()[:, None], S[:, :, j].clone()
        row = S[:, j] / pivot
        S.sub_(column[:, :, None] * row[:, None, :])
        S[:, j] = row
        S[:, :, j] = -column / pivot
        S[:, j, j] = 1 / pivot[:, 0]
    return S


def eye(S: Tensor) -> Tensor:
    """I (r, r) beside S (K, r, r)."""
    return torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)


def eigen(S: Tensor) -> tuple[Tensor, Tensor]:
    """(K, r, r), symmetric, float64 -> eigenvalues (K, r) in no order, and eigenvectors (K, r, r), a row each: by Jacobi's
    rotations, of which r/2 that share no row are made at once."""
    V = eye(S).expand_as(S)
    # It converges quadratically: of thousands of matrices none took more sweeps than 4 at r = 3, 5 at 4, 6 at 8, 8 at 64.
    sweeps = 4 + (S.shape[-1] - 1).bit_length()
    for partner, first in sweeps * _rounds(S.shape[-1], S.device):
        cosine, sine = _rotation(S, partner, first)
        S, V = (cosine * M - sine * M.index_select(1, partner) for M in (S, V))
        S = cosine.mT * S - sine.mT * S.index_select(2, partner)
    return S.diagonal(dim1=1, dim2=2), V


def _rotation(S: Tensor, partner: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (K, r, 1) of the smaller angle that takes each S_ij to zero, j the partner of i (Golub, Van Loan, Matrix
    Computations, section 8.5); of j it is the angle's negative. `first` (r,): 1 for one of the two, -1 for the other."""
    diagonal = S.diagonal(dim1=1, dim2=2)
    off = S.gather(2, partner[:, None].expand(len(S), -1, 1))[:, :, 0]
    off = (off + off.index_select(1, partner)) / 2  # S_ij and S_ji have been rounded, and must not give two angles
    theta = (diagonal.index_select(1, partner) - diagonal) / (2 * off)
    t = torch.where(theta == 0, first, theta.sign()) / (theta.abs() + sqrt_(theta * theta + 1))
    t = torch.where((off == 0) | (first == 0), 0, t)[:, :, None]
    cosine = 1 / sqrt_(t * t + 1)
    return cosine, t * cosine


@cache
def _rounds(r: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Every pair of r rows once, in rounds in which each row has one partner, as of a tournament: (r,) whom, and 1 for one of the
    two, -1 for the other, 0 for a row that has none but itself."""
    order, rounds = list(range(r + r % 2)), []
    while len(rounds) < len(order) - 1:
        partner = dict(zip(order, order[::-1], strict=True))
        whom = [i if partner[i] >= r else partner[i] for i in range(r)]
        first = [float((j > i) - (j < i)) for i, j in enumerate(whom)]
        rounds.append((torch.tensor(whom, device=device), torch.tensor(first, dtype=torch.float64, device=device)))
        order = [order[0], order[-1], *order[1:-1]]
    return rounds if r > 1 else []


def of_eigenvalues(S: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """V·diag(f(λ))·Vᵀ (K, r, r) of S = V·diag(λ)·Vᵀ; `function` (K, r) -> (K, r)."""
    values, V = eigen(S)
    return small_product(V.mT * function(values)[:, None], V)


def inverse_root(S: Tensor, noise: float | None = None) -> Tensor:
    """S^-1/2 (K, r, r) of positive semidefinite S, on the span of the eigenvalues above `noise`, by default SINGULAR times the
    largest: as a pseudo-inverse."""

    def root(values: Tensor) -> Tensor:
        some = values > (SINGULAR * values.amax(1, keepdim=True).clamp_min(0) if noise is None else noise)
        return torch.where(some, 1 / sqrt_(torch.where(some, values, 1)), 0)

    return of_eigenvalues(S, root)


def together(function: Callable[[Tensor], Tensor], matrices: Sequence[Tensor]) -> list[Tensor]:
    """`function` of each of these (K, r, r), in one call for all of one r."""
    results: dict[int, Tensor] = {}
    for r in dict.fromkeys(M.shape[-1] for M in matrices):
        places = [i for i, M in enumerate(matrices) if M.shape[-1] == r]
        parts = function(torch.cat([matrices[i] for i in places])).chunk(len(places))
        results |= dict(zip(places, parts, strict=True))
    return [results[i] for i in range(len(matrices))]

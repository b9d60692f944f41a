"""Where the factors of K runs point: how far their spans have turned, and the singular values of their product."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.core.exact import sqrt_, total
from runner.core.gram import eigen, gram, inverse_root, of_eigenvalues, small_product, together
from runner.training.measure.intruders import COLUMN as INTRUDERS

OVERLAPS = ("subspace/A_start", "subspace/B_start", "subspace/A_step", "subspace/B_step")
STEP = OVERLAPS[2:]  # of the last update
Factors = tuple[Tensor, Tensor]  # A (K, r, n_in) and B (K, n_out, r)


def columns(rank: int) -> list[str]:
    """Of layers whose largest singular values, so many, are kept; the last is counted at the end alone."""
    return [*OVERLAPS, "spectrum/entropy_rank", *(f"spectrum/{i + 1}" for i in range(rank)), INTRUDERS]


class Subspaces:
    """Measures all layers of K runs that began at these factors; `rank` singular values of each."""

    def __init__(self, start: Sequence[Factors], rank: int):
        self.rank, self.start = rank, bases(start)

    def of(self, runs: Tensor) -> "Subspaces":
        """Of these runs alone (k,)."""
        kept = object.__new__(Subspaces)
        kept.rank, kept.start = self.rank, [basis[runs] for basis in self.start]
        return kept

    def measure(self, before: Sequence[Factors], after: Sequence[Factors], scales: Sequence[Tensor]) -> Tensor:
        """(layers, columns, K), float64, in the order of `columns`, from the factors around one update."""
        now, new = bases(before), bases(after)
        turned = [overlap(x, y) for x, y in zip(now, self.start, strict=True)]
        moved = [overlap(x, y) for x, y in zip(new, now, strict=True)]
        sizes = singular_values(before, scales)
        rows = zip(turned[::2], turned[1::2], moved[::2], moved[1::2], sizes, strict=True)
        later = torch.full_like(scales[0], torch.nan, dtype=torch.float64)
        return torch.stack([torch.stack([*four, entropy_rank(of), *self._largest(of), later]) for *four, of in rows])

    def _largest(self, values: Tensor) -> Tensor:
        """(rank, K) of (K, r); those that a layer of a smaller rank does not have are zero."""
        return torch.nn.functional.pad(values, (0, max(0, self.rank - values.shape[1])))[:, : self.rank].T


def bases(factors: Sequence[Factors]) -> list[Tensor]:
    """Of A, B, A, B, … orthonormal rows that span the rows of A, or the columns of B: (K, r, n), float64; zero for a factor that
    is, and as many of them as it has independent ones."""
    rows = [of.double() for A, B in factors for of in (A, B.mT)]
    roots = together(inverse_root, [gram(X) for X in rows])
    return [small_product(root, X) for root, X in zip(roots, rows, strict=True)]


def overlap(now: Tensor, before: Tensor) -> Tensor:
    """(K,) mean of squared cosines of the principal angles between two spans, of bases (K, r, n): 1 if that of `before` lies in
    the other, and 0 if they are orthogonal; of a random span r/n is expected. nan where one of them is empty."""
    size = total(before.square().flatten(1))
    share = total(gram(now, before).square().flatten(1)) / size
    return torch.where((size == 0) | (total(now.square().flatten(1)) == 0), torch.nan, share)


def singular_values(factors: Sequence[Factors], scales: Sequence[Tensor]) -> list[Tensor]:
    """Of s·B·A, all r that may differ from 0, falling: (K, r). They are the roots of eigenvalues of (AAᵀ)^1/2·BᵀB·(AAᵀ)^1/2, so
    that those below 1e-8 of the largest are rounding."""
    roots = together(_root, [gram(A) for A, _ in factors])
    inner = [small_product(small_product(R, gram(B.mT)), R) for R, (_, B) in zip(roots, factors, strict=True)]
    values = together(lambda S: sqrt_(eigen(S)[0].clamp_min(0)).sort(1, descending=True)[0], inner)
    return [s.double()[:, None] * of for s, of in zip(scales, values, strict=True)]


def entropy_rank(values: Tensor) -> Tensor:
    """exp(-Σ p·log p) with p = σ/Σσ (Roy, Vetterli 2007, The effective rank): 1 to r; nan where all σ (K, r) are zero."""
    p = values / total(values)[:, None]
    return total(-torch.special.xlogy(p, p)).exp()


def _root(S: Tensor) -> Tensor:
    return of_eigenvalues(S, lambda values: sqrt_(values.clamp_min(0)))

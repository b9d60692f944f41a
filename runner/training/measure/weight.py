"""The columns of a layer that is trained whole: of its weight W, and of the change D = W - W0 from the frozen one.

Everything is float64, a few runs at a time, so that no more than AT_ONCE numbers (or one run's) of a change are held.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import prange
from torch import Tensor

from runner.adapters import Full
from runner.core.compiled import njit
from runner.core.rng import generator, normal
from runner.tasks.base import Probe
from runner.training.measure import compiled, frozen
from runner.training.measure.frozen import FROZEN
from runner.training.measure.metrics import largest_eigenvalue, norm, size
from runner.training.measure.rows import CHANGES, moved

COLUMNS = "grad/W param/W update/W feature/Z_B feature/dZ_B weight/fro weight/spectral weight/stable_rank".split()
AT_ONCE = 2**20
STEPS = 16  # of Lanczos
NOISE = 1e-14  # of ‖D‖_F²: what is left of a direction below it is rounding


def columns(changes: bool) -> list[str]:
    """`changes`: whether CHANGES are among them."""
    return [*COLUMNS, *FROZEN, *CHANGES * changes]


class WeightMetrics:
    """Measures the K runs of a weight on a fixed probe; `columns` names what it measures.

    Features and norms are those of D: there is no scale, and no inner feature. Where a weight W0 is given, it measures CHANGES
    of the rows, too.
    """

    def __init__(self, adapter: Full, probe: Probe, W0: Tensor | None = None):
        self.adapter, self.Z, self.changes = adapter, probe.Z.double(), W0 is not None
        self.columns = columns(self.changes)
        self.frozen = frozen.measured(probe)
        self.start = normal(probe.Z.shape[1], variance=1, generator=generator(0, "lanczos")).to(self.Z)

    @torch.no_grad()
    def measure(
        self, before: Sequence[Tensor], gradients: Sequence[Tensor], after: Sequence[Tensor], out: Tensor
    ) -> None:
        """Fill out (columns, K), float64, in the order of `columns`, from the weights around one update."""
        W0, at_once = self.adapter.W0, max(1, AT_ONCE // self.adapter.W0.numel())
        parts = zip(*(t[0].split(at_once) for t in (before, gradients, after)), out.split(at_once, 1), strict=True)
        for W, G, new_W, columns in parts:
            D = torch.empty_like(W, dtype=torch.float64)
            columns[0] = norm(D.copy_(G))
            columns[2], columns[4] = norm(D.copy_(new_W).sub_(W)), self._feature(D)
            columns[1] = norm(D.copy_(W))
            columns[5], columns[3] = norm(D.sub_(W0)), self._feature(D)
            columns[6] = largest_singular_value(D, self.start)
            columns[7] = (columns[5] / columns[6]).square()  # not defined (nan) while W = W0
            columns[len(COLUMNS) : len(COLUMNS) + len(FROZEN)] = self.frozen
            if self.changes:
                w, along = torch.linalg.vector_norm(W0, dim=1, dtype=torch.float64), (D * W0).sum(2)
                columns[-len(CHANGES) :] = torch.stack(moved(w, along, D.square_().sum(2)))

    def _feature(self, D: Tensor) -> Tensor:
        """Size of D·Z (K,)."""
        return size((D @ self.Z.T).square().sum(1), D.shape[1])


def largest_singular_value(D: Tensor, start: Tensor) -> Tensor:
    """‖D‖₂ of each D (K, n_out, n_in), from below (K,): what D has on the Krylov space of DᵀD from `start` (n_in,).

    STEPS of Lanczos (Golub, Kahan 1965), each direction made orthogonal to all before it. Changes that training makes, in
    which a few directions stand out, come out to 1e-6 of themselves or better, and matrices of up to STEPS columns to rounding;
    of a matrix of independent entries, in which none does, 1% may be missing. A decomposition would take as long as several
    updates.
    """
    if not compiled.has_kernels(D.device):
        return largest_eigenvalue(_gram_by_operations(D, start)).sqrt()
    gram = D.new_empty(len(D), STEPS, STEPS)
    _gram(D.numpy(), start.numpy(), NOISE, gram.numpy())
    finite = gram.isfinite().all(-1).all(-1)
    largest = torch.linalg.eigvalsh(torch.where(finite[:, None, None], gram, 0))[:, -1]  # which refuses nan
    return torch.where(finite, largest.clamp_min(0).sqrt(), torch.nan)


def _gram_by_operations(D: Tensor, start: Tensor) -> Tensor:
    """(D·V)ᵀ(D·V) for the orthonormal V of Lanczos: (K, STEPS, STEPS)."""
    least, v = NOISE * norm(D).square()[:, None, None], (start / start.norm())[:, None].expand(len(D), -1, -1)
    U, V = D.new_zeros(len(D), D.shape[1], STEPS), D.new_zeros(len(D), D.shape[2], STEPS)
    for i in range(STEPS):
        V[:, :, i : i + 1] = v
        u = D @ v
        U[:, :, i : i + 1] = u
        v = D.mT @ u
        for _ in range(2):  # once leaves what rounding did
            v = v - V @ (V.mT @ v)
        length = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        v = torch.where(length > least, v / length, 0)
    return U.mT @ U


@njit(parallel=True, fastmath={"contract", "reassoc"})
def _gram(D, start, noise, gram):
    """The same on the CPU, into gram (K, STEPS, STEPS); a run's numbers depend on that run alone. D is read once a step."""
    K, n_out, n_in = D.shape
    for k in prange(K):
        U, V = np.zeros((STEPS, n_out)), np.zeros((STEPS, n_in))
        v, new = start / np.sqrt((start * start).sum()), np.empty(n_in)
        square = 0.0
        for row in D[k]:
            for j in range(n_in):
                square += row[j] * row[j]
        for i in range(STEPS):
            V[i], new[:] = v, 0.0
            for o in range(n_out):
                row, u = D[k, o], 0.0
                for j in range(n_in):
                    u += row[j] * v[j]
                U[i, o] = u
                for j in range(n_in):
                    new[j] += u * row[j]
            for _ in range(2):
                for other in range(i + 1):
                    along = 0.0
                    for j in range(n_in):
                        along += V[other, j] * new[j]
                    for j in range(n_in):
                        new[j] -= along * V[other, j]
            length = np.sqrt((new * new).sum())
            v[:] = new / length if length > noise * square else 0.0 * new
        for i in range(STEPS):
            for j in range(STEPS):
                total = 0.0
                for o in range(n_out):
                    total += U[i, o] * U[j, o]
                gram[k, i, j] = total

"""The columns of a layer that is trained whole: of its weight W, and of the change D = W - W0 from the frozen one.

Everything is float64, a few runs at a time, so that no more than AT_ONCE numbers (or one run's) of a change are held.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.adapters import Full
from runner.core.rng import generator, normal
from runner.tasks.base import Probe
from runner.training.measure import frozen
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
            columns[6] = torch.stack([largest_singular_value(of_run, self.start) for of_run in D])
            columns[7] = (columns[5] / columns[6]).square()  # not defined (nan) while W = W0
            columns[len(COLUMNS) : len(COLUMNS) + len(FROZEN)] = self.frozen
            if self.changes:
                w, along = torch.linalg.vector_norm(W0, dim=1, dtype=torch.float64), (D * W0).sum(2)
                columns[-len(CHANGES) :] = torch.stack(moved(w, along, D.square_().sum(2)))

    def _feature(self, D: Tensor) -> Tensor:
        """Size of D·Z (K,)."""
        return size((D @ self.Z.T).square().sum(1), D.shape[1])


def largest_singular_value(D: Tensor, start: Tensor) -> Tensor:
    """‖D‖₂ of D (n_out, n_in), from below: what D has on the Krylov space of DᵀD from `start` (n_in,).

    STEPS of Lanczos (Golub, Kahan 1965), each direction made orthogonal to all before it. Changes that training makes, in
    which a few directions stand out, come out to 1e-6 of themselves or better, and matrices of up to STEPS columns to rounding;
    of a matrix of independent entries, in which none does, 1% may be missing. A decomposition would take as long as several
    updates.
    """
    whole, v = norm(D[None]), start / start.norm()
    U, V = D.new_zeros(STEPS, len(D)), D.new_zeros(STEPS, len(v))
    for i in range(STEPS):
        V[i] = v
        U[i] = D @ v
        v = D.T @ U[i]
        for _ in range(2):  # once leaves what rounding did
            v = v - V[: i + 1].T @ (V[: i + 1] @ v)
        length = v.norm()
        v = torch.where(length > NOISE * whole.square(), v / length, 0)
    gram = U @ U.T
    if D.device.type == "cpu" and gram.isfinite().all():  # as good, and faster where nobody waits
        return torch.linalg.eigvalsh(gram)[-1].clamp_min(0).sqrt()
    return largest_eigenvalue(gram).sqrt()

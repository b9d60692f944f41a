"""What is measured at every logged step, for K runs at once, as pure functions of the factors.

The functions here define the columns and run on any device. On the CPU, `Gauge` takes the same numbers from
`runner.metrics_cpu`, which is faster there and gives a run the same bits in every stack.

A (K, r, n_in), B (K, n_out, r), scale (K,), probe Z (P, n_in); every result is (K,). A feature's *size* is the root mean
square of its coordinates, averaged over the P probe inputs, so that exponents in the width can be read off directly.

Nothing of size n_out × n_in or K × P × n_out is formed: with the Gram matrix G = BᵀB (r × r), ‖s·B·v‖² = s²·vᵀGv.
Everything is float64, because Gram matrices square the condition number; the factors are small, so this costs little.
"""

from collections.abc import Sequence

import numba
import torch
from torch import Tensor

from runner import metrics_cpu
from runner.adapters import DoRA, Factored, VeRA
from runner.adapters.dora import Rows

Metrics = dict[str, Tensor]

GRADIENTS = ("grad/A", "grad/B")
STATE = (
    "param/A", "param/B", "feature/Z_A", "feature/Z_B", "weight/fro", "weight/spectral", "weight/stable_rank", "balance",
)  # fmt: skip
INCREMENTS = ("update/A", "update/B", "feature/delta_1", "feature/delta_2", "feature/delta_3", "feature/dZ_B")
COLUMNS = GRADIENTS + STATE + INCREMENTS  # of two factors A and B
CHANGES = ("change/magnitude", "change/direction")


def is_increment(column: str) -> bool:
    """Whether it says what an update did, rather than where a run was."""
    return column in INCREMENTS or column.startswith("update/")


class Gauge:
    """Measures the K runs of an adapter on a fixed probe Z (P, n_in); `columns` names what it measures.

    VeRA's factors are diag(d)·A and diag(b)·B: features and weights are theirs, norms those of d and b, and `balance` is
    |‖b‖² - ‖d‖²|, which gradient flow keeps. Where a weight W0 is given, and for DoRA, it measures `changes` too.
    """

    def __init__(self, adapter: Factored, Z: Tensor, W0: Tensor | None = None):
        self.adapter, self.Z, self.scale = adapter, Z, adapter.scale
        inner, outer, *further = adapter.parameters
        self.rows = adapter.rows if isinstance(adapter, DoRA) else None if W0 is None else Rows(W0, Z.dtype)
        self.columns = [name.replace("/A", f"/{inner}").replace("/B", f"/{outer}") for name in COLUMNS]
        self.columns += [f"{kind}/{name}" for name in further for kind in ("grad", "param", "update")]
        self.columns += CHANGES if self.rows is not None else ()
        if Z.device.type == "cpu":
            points, n_in = Z.shape
            chunks, tiles = -(-points // metrics_cpu.LANES), -(-n_in // metrics_cpu.TILE)
            padded = Z.new_zeros(chunks * metrics_cpu.LANES, tiles * metrics_cpu.TILE, dtype=torch.float64)
            padded[:points, :n_in] = Z
            self.panels = padded.view(chunks, metrics_cpu.LANES, -1).transpose(1, 2).flatten(1).contiguous().numpy()

    @torch.no_grad()
    def measure(
        self, before: Sequence[Tensor], gradients: Sequence[Tensor], after: Sequence[Tensor], out: Tensor
    ) -> None:
        """Fill out (columns, K), float64, in the order of `columns`, from the parameters around one update."""
        factors, updated = self.adapter.learned(before), self.adapter.learned(after)
        self._two_factors(factors, gradients[:2], updated, out[: len(COLUMNS)])
        place = {name: i for i, name in enumerate(self.columns)}
        named = list(zip(self.adapter.parameters, before, gradients, after, strict=True))
        for name, old, gradient, new in named if isinstance(self.adapter, VeRA) else named[2:]:
            out[place[f"grad/{name}"]] = _norm(gradient)
            out[place[f"param/{name}"]] = _norm(old)
            out[place[f"update/{name}"]] = _norm(new.double() - old.double())
        if isinstance(self.adapter, VeRA):
            d, b = (p.double().square().sum(1) for p in before)
            out[place["balance"]] = (b - d).abs()
        if self.rows is not None:
            magnitudes = before[2] if isinstance(self.adapter, DoRA) else None
            out[-len(CHANGES) :] = torch.stack(changes(self.rows, *self.adapter.factors(before), magnitudes))

    def _two_factors(
        self, before: Sequence[Tensor], gradients: Sequence[Tensor], after: Sequence[Tensor], out: Tensor
    ) -> None:
        if self.Z.device.type == "cpu":
            gradients = [g if g.dim() == 3 else g.unsqueeze(-1) for g in gradients]
            arrays = (t.detach().contiguous().numpy() for t in (*before, *gradients, *after, self.scale))
            groups = min(len(self.scale), numba.get_num_threads())
            metrics_cpu.measure(*arrays, self.panels, len(self.Z), groups, out.numpy())
            return
        updates = [new.double() - old.double() for new, old in zip(after, before, strict=True)]
        measured = (
            gradient_norms(*gradients)
            | state(*before, self.scale, self.Z)
            | increments(*before, *updates, self.scale, self.Z)
        )
        out.copy_(torch.stack([measured[name] for name in COLUMNS]))


def gradient_norms(grad_A: Tensor, grad_B: Tensor) -> Metrics:
    """Frobenius norms of ∂L/∂A and ∂L/∂B."""
    return {"grad/A": _norm(grad_A), "grad/B": _norm(grad_B)}


def state(A: Tensor, B: Tensor, scale: Tensor, Z: Tensor) -> Metrics:
    """Norms of the factors, sizes of Z_A = A·Z and Z_B = s·B·Z_A, the spectrum of s·B·A, and ‖BᵀB - AAᵀ‖_F."""
    A, B, scale, Z = A.double(), B.double(), scale.double(), Z.double()
    Z_A = A @ Z.T
    gram_A, gram_B = A @ A.mT, B.mT @ B
    singular_values = scale[:, None] * _product_singular_values(gram_A, gram_B)
    fro = singular_values.norm(dim=1)
    spectral = singular_values.amax(dim=1)
    return {
        "param/A": _norm(A),
        "param/B": _norm(B),
        "feature/Z_A": _size(Z_A.square().sum(1), A.shape[1]),
        "feature/Z_B": _size(_quadratic(gram_B, Z_A), B.shape[1], scale),
        "weight/fro": fro,
        "weight/spectral": spectral,
        # ‖sBA‖_F² / ‖sBA‖₂²; not defined (nan) while BA = 0
        "weight/stable_rank": (fro / spectral).square(),
        "balance": _norm(gram_B - gram_A),
    }


def increments(A: Tensor, B: Tensor, dA: Tensor, dB: Tensor, scale: Tensor, Z: Tensor) -> Metrics:
    """Sizes of one update's effect on Z_B, by what moved; A, B are the factors *before* the update dA, dB.

    delta_1 = s·B·dA·Z (only A moves), delta_2 = s·dB·A·Z (only B), delta_3 = s·dB·dA·Z (both), and
    dZ_B = delta_1 + delta_2 + delta_3, the change of Z_B on the same Z (Hayou, Ghosh, Yu 2024, LoRA+).
    """
    A, B, dA, dB, scale, Z = (t.double() for t in (A, B, dA, dB, scale, Z))
    n_out, rank = B.shape[1:]
    Z_A, dZ_A = A @ Z.T, dA @ Z.T
    # All three, and their sum, are products of [B, dB] (n_out × 2r) with a 2r-vector: one Gram matrix serves them all.
    both = torch.cat([B, dB], dim=2)
    gram = both.mT @ both
    gram_dB = gram[:, rank:, rank:]
    return {
        "update/A": _norm(dA),
        "update/B": _norm(dB),
        "feature/delta_1": _size(_quadratic(gram[:, :rank, :rank], dZ_A), n_out, scale),
        "feature/delta_2": _size(_quadratic(gram_dB, Z_A), n_out, scale),
        "feature/delta_3": _size(_quadratic(gram_dB, dZ_A), n_out, scale),
        "feature/dZ_B": _size(_quadratic(gram, torch.cat([dZ_A, Z_A + dZ_A], dim=1)), n_out, scale),
    }


def changes(rows: Rows, inner: Tensor, outer: Tensor, magnitudes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far lengths and directions of the weight's rows have moved, in the mean over the n_out rows: (K,), (K,).

    V = W0 + outer·inner, row by row: | ‖v‖ - ‖w‖ |, or | |m| - ‖w‖ | for DoRA's `magnitudes` m (K, n_out), and 1 - cos(v, w)
    (Liu et al. 2024, equations 3 and 4). Of the part of the change across w rather than of cosines, which near 1 have no digits.
    """
    w = rows.squares.sqrt().double()
    along = (outer * rows.cross(inner).mT).sum(2).double()
    inner, outer = inner.double(), outer.double()
    change = (outer * (outer @ (inner @ inner.mT))).sum(2).clamp_min(0)
    square = (w.square() + 2 * along + change).clamp_min(0)
    norm = square.sqrt()
    magnitude = (2 * along + change) / (norm + w) if magnitudes is None else magnitudes.double().abs() - w
    across = (change - (along / w).square()).clamp_min(0)
    cosine = (w + along / w) / norm
    direction = torch.where(cosine > 0, across / square / (1 + cosine), 1 - cosine)
    return magnitude.abs().mean(1), direction.mean(1)


def _norm(x: Tensor) -> Tensor:
    return x.double().flatten(1).norm(dim=1)


def _quadratic(gram: Tensor, v: Tensor) -> Tensor:
    """vᵀGv for every column of v: (K, q, q), (K, q, P) -> (K, P). Rounding may leave a zero slightly negative."""
    return (v * (gram @ v)).sum(1).clamp_min(0)


def _size(squared_norms: Tensor, coordinates: int, scale: Tensor | None = None) -> Tensor:
    """Mean over the probe of s·‖·‖/√coordinates: (K, P) -> (K,)."""
    size = (squared_norms / coordinates).sqrt().mean(1)
    return size if scale is None else scale * size


def _product_singular_values(gram_A: Tensor, gram_B: Tensor) -> Tensor:
    """The r singular values of B·A (K, r) from the Gram matrices of its factors.

    σ(BA)² are the eigenvalues of BᵀB·AAᵀ, hence of the symmetric H·BᵀB·H with H² = AAᵀ.
    """
    finite = (gram_A.isfinite() & gram_B.isfinite()).all(-1).all(-1)
    gram_A, gram_B = (torch.where(finite[:, None, None], g, 0) for g in (gram_A, gram_B))  # eigh refuses nan
    eigenvalues, vectors = torch.linalg.eigh(gram_A)
    root = (vectors * eigenvalues.clamp_min(0).sqrt()[:, None]) @ vectors.mT
    squared = torch.linalg.eigvalsh(root @ gram_B @ root).clamp_min(0)
    return torch.where(finite[:, None], squared.sqrt(), torch.nan)

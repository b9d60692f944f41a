"""The fused step: losses and gradients of K runs of factors A and B on a toy task, on the CPU, without any n × n product.

The base is frozen, so the layer's inputs Z and its frozen output y0 are constants. Only the N × n pairs of a point and a
column are left to do, each 5r multiply-adds: A·z, B·(A·z), the sums over columns that ∂L/∂A needs, ∂L/∂B and ∂L/∂A. What a
pair needs twice is computed twice rather than stored, but for a ReLU's slope, which is a bit. The arithmetic is in `kernels`.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from runner.adapters.factored import padded
from runner.tasks.base import Adapters
from runner.tasks.toy import Batch, ToyTask
from runner.training.fused import kernels
from runner.training.fused.kernels import LANES, WORD


class Fused:
    """Answers a task's question, what the losses and gradients of the stacked adapters are, with the kernels.

    y (N, n) is the adapted layer's output. With readout weights w (n,) a task's loss is the mean over points of
    (ReLU(y)·w - target)²; without, the mean over points and columns of (y - target)².
    """

    def __init__(self, task: ToyTask):
        self.train, self.test = (Panels(batch, task.readout) for batch in (task.train, task.test))

    def loss_and_grad(self, adapters: Adapters) -> tuple[Tensor, list[Tensor]]:
        """As `Task.loss_and_grad`."""
        parameters = list(adapters["hidden"].parameters.values())
        factors = adapters["hidden"].factors(parameters)
        losses, work, p = *self._forward(self.train, factors), self.train
        gradients = [torch.empty(f.shape, dtype=f.dtype) for f in factors]
        groups = _groups(len(p.Zc), len(losses))
        inputs = work.Bt, work.Z_A, work.P, work.D, p.weights, p.Zc, p.Yc, p.relu, work.slopes
        outputs = work.dA, work.dB, *(g.numpy() for g in gradients)
        kernels.backward(*inputs, groups, *outputs, work.scratch)
        return losses, list(torch.autograd.grad(factors, parameters, gradients))

    def losses(self, adapters: Adapters) -> Tensor:
        """As `Task.losses`."""
        return self._losses(self.train, adapters)

    def evaluate(self, adapters: Adapters) -> dict[str, Tensor]:
        """As `Task.evaluate`."""
        return {"eval/loss": self._losses(self.test, adapters)}

    def _losses(self, p: "Panels", adapters: Adapters) -> Tensor:
        adapter = adapters["hidden"]
        return self._forward(p, adapter.factors(list(adapter.parameters.values())))[0]

    @staticmethod
    def _forward(p: "Panels", factors: tuple[Tensor, Tensor]) -> tuple[Tensor, "Workspace"]:
        A, B = (f.detach().contiguous() for f in factors)
        work, losses, groups = p.workspace(A), A.new_empty(len(A)), _groups(len(p.Zt), len(A))
        kernels.pack(A.numpy(), B.numpy(), p.weights, work.A, work.B, work.wB, work.Bt)
        inputs = work.A, work.B, work.wB, p.weights, p.Zt, p.Yt, p.target, p.relu, p.mean
        outputs = work.Z_A, work.P, work.D, work.slopes, work.out, work.sums, losses.numpy()
        kernels.forward(*inputs, groups, *outputs, work.scratch)
        return losses, work


class Panels:
    """One batch in the layout of the kernels: padded with zeros, points in lanes (t) and columns in lanes (c)."""

    def __init__(self, batch: Batch, readout: Tensor | None):
        points, width = batch.Z.shape
        self.relu = readout is not None
        self.mean = 1.0 / (points if self.relu else points * width)
        if readout is None:  # the loss is the mean square of y - target, whose frozen part is y0 - target
            y0, target, readout = batch.y0 - batch.target, batch.y0.new_zeros(points), batch.y0.new_ones(width)
        else:
            y0, target = batch.y0, batch.target
        self.Zt, self.Zc = _in_points(batch.Z), _in_columns(batch.Z)
        self.Yt, self.Yc = _in_points(y0), _in_columns(y0[:0] if self.relu else y0)
        self.weights = _pad(readout, LANES).numpy()
        self.target = _pad(target, LANES).view(-1, LANES).numpy()
        self.work: Workspace | None = None

    def workspace(self, A: Tensor) -> "Workspace":
        """The buffers for factors of this shape (K, r, n); kept from step to step."""
        runs, rank, _ = A.shape
        if self.work is None or self.work.shape != (runs, rank):
            self.work = Workspace.allocate(self, runs, rank, A.dtype)
        return self.work


@dataclass(frozen=True)
class Workspace:
    """What `kernels` reads and writes for K runs of rank r on one batch; see there. R: r up to a multiple of 4."""

    shape: tuple[int, int]
    A: np.ndarray
    B: np.ndarray
    wB: np.ndarray
    Bt: np.ndarray
    Z_A: np.ndarray
    P: np.ndarray
    D: np.ndarray
    slopes: np.ndarray
    out: np.ndarray
    sums: np.ndarray
    dA: np.ndarray
    dB: np.ndarray
    scratch: np.ndarray

    @classmethod
    def allocate(cls, p: Panels, K: int, r: int, dtype: torch.dtype) -> "Workspace":
        """Zeros, through torch: its memory is aligned to cache lines, without which the kernels take half as long again."""
        R, n, points, columns = padded(r), len(p.weights), len(p.Zt), len(p.Zc)

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> np.ndarray:
            return torch.zeros(*shape, dtype=dtype).numpy()

        at_points = {name: zeros(K, points, R * LANES) for name in ("Z_A", "P", "D")}
        at_columns = {name: zeros(K, columns, R * LANES) for name in ("Bt", "dA", "dB")}
        items = max(points * _groups(points, K), columns * _groups(columns, K))
        factors = {"A": zeros(K, R, n), "B": zeros(K, n, R), "wB": zeros(K, R, n)}
        out, sums = zeros(K, points, LANES), zeros(K, points, dtype=torch.float64)
        slopes = zeros(K, points, n // WORD * p.relu, LANES, dtype=torch.uint32)
        scratch = zeros(items, 4 * LANES)
        return cls((K, r), **factors, **at_points, **at_columns, slopes=slopes, out=out, sums=sums, scratch=scratch)


def _groups(chunks: int, runs: int) -> int:
    """Groups of runs for which a chunk is a task of its own: enough tasks for all threads, but runs that share a chunk
    take turns on it while it is in the cache. How runs are grouped changes no number."""
    return min(runs, -(-4 * numba.get_num_threads() // chunks))


def _pad(x: Tensor, multiple: int) -> Tensor:
    """Zeros at the end of the last dimension, up to a multiple."""
    return torch.nn.functional.pad(x, (0, -x.shape[-1] % multiple))


def _in_points(X: Tensor) -> np.ndarray:
    """X (N, n) with points in lanes: (chunks, n'·LANES), n' being n up to a multiple of LANES."""
    full = _pad(_pad(X, LANES).T, LANES)
    return full.unflatten(1, (-1, LANES)).transpose(0, 1).flatten(1).contiguous().numpy()


def _in_columns(X: Tensor) -> np.ndarray:
    """X (N, n) with columns in lanes: (chunks, N'·LANES), N' being N up to a multiple of 4, the height of a block of panels."""
    full = _pad(_pad(X.T, 4).T, LANES)
    return full.unflatten(1, (-1, LANES)).transpose(0, 1).flatten(1).contiguous().numpy()

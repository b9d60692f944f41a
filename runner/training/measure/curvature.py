"""Curvature of a loss from losses and gradients alone, for K runs at once: where it rises along a line, and the largest
eigenvalue of its Hessian.

All that a run trains is one row of a vector (K, P). Nothing waits for the device, and a run's numbers depend on that run alone,
to the bit.
"""

from collections.abc import Callable

import numpy as np
import torch
from numba import prange, uintp
from torch import Tensor

from runner.core.compiled import njit
from runner.core.exact import sqrt_, total
from runner.training.measure.compiled import has_kernels
from runner.training.measure.metrics import SQUARINGS
from runner.training.optimizers.base import per_run

FARTHEST = 64.0  # after a multiple of the update that does not raise the loss comes one at most so many times as large
CLIFF = 100.0  # where the loss rises so many times faster than it falls, a line through both tells nothing
NOISE = 16  # times the rounding of a loss: smaller differences say nothing
REACH = 2e-3  # how far gradients are taken from each other, of 1 and the length of all that trains
LANES = 8  # sums side by side, which all processors add alike

Vector = Tensor  # (K, P): all that a run trains, flat
Gradients = Callable[[Vector], Vector]  # of the loss at these parameters
Losses = Callable[[Vector], Tensor]  # (K,)


def dot(x: Vector, y: Vector) -> Tensor:
    """(K,) float64; a run's has the same bits in every stack."""
    if not has_kernels(x.device):
        return total(x.double() * y.double())
    out = torch.empty(len(x), dtype=torch.float64)
    _dot(x.contiguous().numpy(), y.contiguous().numpy(), out.numpy())
    return out


@njit(parallel=True, fastmath={"contract"})
def _dot(x, y, out):
    """The same on the CPU: each run's by itself, entry i in sum i % LANES."""
    for k in prange(len(x)):
        sums, whole = np.zeros(LANES), x.shape[1] // LANES * LANES
        for first in range(0, whole, LANES):
            for lane in range(LANES):
                i = uintp(first) + uintp(lane)
                sums[uintp(lane)] += np.float64(x[k, i]) * np.float64(y[k, i])
        for i in range(whole, x.shape[1]):
            sums[uintp(i - whole)] += np.float64(x[k, i]) * np.float64(y[k, i])
        out[k] = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))


def length(x: Vector) -> Tensor:
    """(K,) float64."""
    return sqrt_(dot(x, x))


def scaled(x: Vector, by: Tensor) -> Vector:
    """Each run's, times `by` (K,)."""
    return x * per_run(by, x)


def critical_multiple(
    losses: Losses, start: Vector, update: Vector, slope: Tensor, first: Tensor, passes: int
) -> tuple[Tensor, Tensor]:
    """c (K,), float64: the smallest multiple of `update` at which the loss rises above that at `start`; and where to begin next.

    `slope` (K,) = ∂/∂c of it at c = 0; the search begins at the multiples `first` (K,). It goes outward until the loss has risen,
    then inward: (L(c) - L(0))/c, which is a line for a quadratic loss, is zero where the line through its two ends is. 0 where
    the update points uphill; nan where no trial of the `passes` has raised the loss, where the update is none, or where all that
    it changes is within the rounding of the loss.
    """
    loss, low, high = losses(start).double(), torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    at_low, at_high = slope, high  # (L(c) - L(0)) / c at either end
    noise, c, risen, kept = NOISE * torch.finfo(update.dtype).eps * loss.abs(), first, None, None

    def between(at_low: Tensor, at_high: Tensor) -> Tensor:
        """Where the line through both ends is zero; at a cliff, or where that is not between them, their geometric middle."""
        line = low - at_low * (high - low) / (at_high - at_low)
        middle = sqrt_(low.clamp_min(high / FARTHEST) * high)
        says = (low <= line) & (line <= high) & (at_high <= CLIFF * slope.abs())
        return torch.where(says, line, middle)

    for _ in range(passes):
        change = losses(start + scaled(update, c)).double() - loss
        rises, mean = ~(change <= noise), change / c  # nan, too
        beyond = slope * c / (slope - mean)  # where the line from c = 0 through this trial is zero
        speaks = -slope * c > noise
        outward = torch.where(speaks & (beyond > c), (1.1 * beyond).clamp(2 * c, FARTHEST * c), FARTHEST * c)
        low, at_low = torch.where(rises, low, c), torch.where(rises | ~speaks, at_low, mean.clamp(max=0))
        high, at_high = torch.where(rises, c, high), torch.where(rises, mean, at_high)
        # Illinois: an end that stays counts half as much each time, so that in the end it is left.
        kept = torch.ones_like(c) if kept is None else torch.where(rises == risen, kept / 2, 1)
        inward = between(torch.where(rises, kept * at_low, at_low), torch.where(rises, at_high, kept * at_high))
        c, risen = torch.where(high.isinf(), outward, inward), rises
    found = between(at_low, at_high)
    next_first = torch.where(slope < 0, torch.where(high.isinf(), c, found), first)
    found = torch.where(high.isinf() | (-slope * found / 4 <= noise), torch.nan, found)
    return torch.where(slope < 0, found, torch.where(slope > 0, 0.0, torch.nan)), next_first


def top_eigenvalue(product: Callable[[Vector], Vector], start: Vector, products: int) -> tuple[Tensor, Vector]:
    """The largest eigenvalue (K,) of a symmetric matrix a run, float64, and its direction, of length 1: by so many steps of
    Lanczos from `start`, each made orthogonal to all before it. From below, but for what `product` rounds."""
    basis, images, v = [], [], normalized(start)
    for _ in range(products):
        basis.append(v)
        images.append(product(v))
        v = images[-1]
        for _ in range(2):  # once leaves what rounding did
            for other in basis:
                v = v - scaled(other, dot(other, v))
        v = normalized(v, least=length(images[-1]) * 1e-6)
    T = torch.stack([torch.stack([dot(x, y) for y in images], dim=-1) for x in basis], dim=-2)
    T = (T + T.mT) / 2
    empty = torch.stack([dot(x, x) for x in basis], dim=-1) < 0.5  # all directions were used up: as good as the first
    T = T + torch.diag_embed(empty * T[:, :1, 0])
    largest, y = top_of(T)
    direction = sum(scaled(x, y[:, i]) for i, x in enumerate(basis))
    return largest, normalized(direction)


def normalized(x: Vector, least: Tensor | float = 0.0) -> Vector:
    """Of length 1; zero where its length is not above `least` (K,)."""
    size = length(x)
    return scaled(x, torch.where(size > least, 1 / size, 0))


def top_of(T: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue (K,) of small symmetric T (K, m, m), and its eigenvector (K, m). A library's decomposition would wait
    for the device, and round a matrix otherwise beside others."""
    # No eigenvalue lies farther from zero; and what is left is not zero.
    lift = total(T.abs()).amax(1) * (1 + 1e-9) + torch.finfo(T.dtype).tiny
    M = T + torch.diag_embed(lift[:, None].expand(-1, T.shape[1]))
    for _ in range(SQUARINGS):
        M = M / M.abs().amax((1, 2), keepdim=True)
        M = total(M[:, :, None] * M[:, None])
    column = M.diagonal(dim1=1, dim2=2).argmax(1)
    y = M.gather(2, column[:, None, None].expand(-1, M.shape[1], 1))[:, :, 0]
    y = y / sqrt_(total(y * y))[:, None]
    return total(y * total(T * y[:, None])), y


def hessian(gradients: Gradients, at: Vector, gradient: Vector) -> Callable[[Vector], Vector]:
    """v -> H·v, by the difference of the gradient at `at`, which is given, and a little further along v.

    Of a loss with kinks, as ReLU's, that is how its gradient changes over REACH: nearer by, a kink more or less would count for
    all, and the Hessian itself knows of none.
    """
    little = REACH * (1 + length(at))

    def product(v: Vector) -> Vector:
        size = length(v)
        step = little / torch.where(size > 0, size, 1)
        return scaled(gradients(at + scaled(v, step)) - gradient, 1 / step)

    return product

"""How sharp the training loss is where a run stands: along its own update, and in the direction that is sharpest.

Everything is asked of the engine that trains, at parameters that are moved for a moment, for all K runs at once: losses along
the update just made, and gradients, whose differences are products with the Hessian. Nothing waits for the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import prange
from torch import Tensor

from runner.core.compiled import njit
from runner.core.exact import total
from runner.core.rng import generator, normal
from runner.training.measure.compiled import has_kernels

COLUMNS = ("stability/critical_lr", "stability/sharpness", "stability/preconditioned")
# By whether it is the first measurement; later ones begin where the last one ended.
PRODUCTS = {True: 12, False: 2}  # steps of Lanczos
PASSES = {True: 8, False: 4}  # forward passes of the search along an update
FARTHEST = 64.0  # after a multiple of the update that does not raise the loss comes one at most so many times as large
CLIFF = 100.0  # where the loss rises so many times faster than it falls, a line through both tells nothing
REACH = 2e-3  # how far gradients are taken from each other, of the length of all that trains
NOISE = 16  # times the rounding of a loss: smaller differences say nothing
STEPS = 6  # of training that a measurement takes the time of
VECTORS = 2 * PRODUCTS[True] + 8  # numbers that it holds for each that is trained
SQUARINGS = 40  # leave of a small matrix the direction of its largest eigenvalue

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


@njit(parallel=True, fastmath={"contract", "reassoc"})
def _dot(x, y, out):
    """The same on the CPU: each run's by itself."""
    for k in prange(len(x)):
        total = 0.0
        for i in range(x.shape[1]):
            total += np.float64(x[k, i]) * np.float64(y[k, i])
        out[k] = total


def scaled(x: Vector, by: Tensor) -> Vector:
    """Each run's, times `by` (K,)."""
    return x * by[:, None].to(x)


def critical_multiple(
    losses: Losses, start: Vector, update: Vector, loss: Tensor, slope: Tensor, first: Tensor, passes: int
) -> Tensor:
    """c (K,), float64: the smallest multiple of `update` at which the loss rises above `loss` (K,), its value at `start`.

    `slope` (K,) = ∂/∂c of it at c = 0; the search begins at the multiples `first` (K,). It goes outward until the loss has risen,
    then inward: (L(c) - L(0))/c, which is a line for a quadratic loss, is zero where the line through its two ends is. 0 where
    the update points uphill, nan where no trial of the `passes` has raised the loss or the update is none.
    """
    low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    at_low, at_high = slope, high  # (L(c) - L(0)) / c at either end
    noise, c, risen, kept = NOISE * torch.finfo(update.dtype).eps * loss.double().abs(), first, None, None

    def between(at_low: Tensor, at_high: Tensor) -> tuple[Tensor, Tensor]:
        """Where the line through both ends is zero, if it is between them; and the geometric middle."""
        line = low - at_low * (high - low) / (at_high - at_low)
        middle = (low.clamp_min(high / FARTHEST) * high).sqrt()
        return torch.where((low <= line) & (line <= high), line, middle), middle

    for _ in range(passes):
        change = losses(start + scaled(update, c)).double() - loss.double()
        rises, mean = ~(change <= noise), change / c  # nan, too
        beyond = slope * c / (slope - mean)  # where the line from c = 0 through this trial is zero
        outward = torch.where(-slope * c > noise, (1.1 * beyond).clamp(2 * c, FARTHEST * c), FARTHEST * c)
        bracketed = high.isfinite()
        low, at_low = torch.where(rises, low, c), torch.where(rises, at_low, mean.clamp(max=0))
        high, at_high = torch.where(rises, c, high), torch.where(rises, mean, at_high)
        # Illinois: an end that stays counts half as much each time, so that in the end it is left.
        kept = torch.ones_like(c) if kept is None else torch.where(rises == risen, kept / 2, 1)
        line, middle = between(torch.where(rises, kept * at_low, at_low), torch.where(rises, at_high, kept * at_high))
        inward = torch.where(bracketed & (at_high > CLIFF * -at_low), middle, line)
        c, risen = torch.where(high.isinf(), outward, inward), rises
    found = torch.where(high.isinf(), torch.nan, between(at_low, at_high)[0])
    return torch.where(slope < 0, found, torch.where(slope > 0, 0.0, torch.nan))


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
        v = normalized(v, least=dot(images[-1], images[-1]).sqrt() * 1e-6)
    T = torch.stack([torch.stack([dot(x, y) for y in images], dim=-1) for x in basis], dim=-2)
    T = (T + T.mT) / 2
    empty = torch.stack([dot(x, x) for x in basis], dim=-1) < 0.5  # all directions were used up: as good as the first
    T = T + torch.diag_embed(empty * T[:, :1, 0])
    largest, y = top_of(T)
    direction = sum(scaled(x, y[:, i]) for i, x in enumerate(basis))
    return largest, normalized(direction)


def normalized(x: Vector, least: Tensor | float = 0.0) -> Vector:
    """Of length 1; zero where its length is not above `least` (K,)."""
    length = dot(x, x).sqrt()
    return scaled(x, torch.where(length > least, 1 / length, torch.zeros_like(length)))


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
    y = y / total(y * y).sqrt()[:, None]
    return total(y * total(T * y[:, None])), y


def hessian(gradients: Gradients, at: Vector, gradient: Vector) -> Callable[[Vector], Vector]:
    """v -> H·v, by the difference of the gradient at `at`, which is given, and a little further along v.

    Of a loss with kinks, as ReLU's, that is how its gradient changes over REACH: nearer by, a kink more or less would count for
    all, and the Hessian itself knows of none.
    """
    little = REACH * (1 + dot(at, at).sqrt())

    def product(v: Vector) -> Vector:
        length = dot(v, v).sqrt()
        step = little / torch.where(length > 0, length, 1)
        return scaled(gradients(at + scaled(v, step)) - gradient, 1 / step)

    return product


@dataclass(frozen=True)
class Move:
    """An update of K runs: of each parameter what it was before, its gradient there, and by what P the optimizer divided (None:
    by nothing); `ratios` (parameters, K) of learning rates, 0 where a run does not train it; losses before, and rates (K,)."""

    before: Sequence[Tensor]
    gradients: Sequence[Tensor]
    ratios: Tensor
    P: Sequence[Tensor] | None
    losses: Tensor
    lr: Tensor

    @property
    def D(self) -> list[Tensor]:
        """(K, …): what an update is times the rate and a mean of gradients; 0 where nothing moves."""
        if self.P is None:
            return list(self.ratios[:, :, None])
        of_runs = [row.to(P).view(-1, *[1] * (P.dim() - 1)) for row, P in zip(self.ratios, self.P, strict=True)]
        return [torch.where(P > 0, row / P, 0) for row, P in zip(of_runs, self.P, strict=True)]


class Sharpness:
    """Measures K runs around an update; COLUMNS names what: the *critical rate* c·lr, for the smallest multiple c of the update
    at which the loss rises (2/(c·lr) is its critical sharpness, arXiv 2601.16979); the largest eigenvalue of the Hessian H of
    what a run trains; and that of D^½·H·D^½, where the optimizer's update is lr·D times a mean of gradients.

    `state`: tensors (K, …) that are carried from measurement to measurement.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters = parameters
        self.sizes = [p[0].numel() for p in parameters]
        p = parameters[0]
        start = normal(sum(self.sizes), variance=1, generator=generator(0, "lanczos")).to(p)
        self.of_hessian, self.of_preconditioned = (start.repeat(len(p), 1) for _ in range(2))
        self.rate = torch.zeros(len(p), dtype=torch.float64, device=p.device)

    @property
    def state(self) -> dict[str, Tensor]:
        return {"rate": self.rate, "hessian": self.of_hessian, "preconditioned": self.of_preconditioned}

    @torch.no_grad()
    def measure(
        self, move: Move, losses: Callable[[], Tensor], gradients: Callable[[], Sequence[Tensor]], first: bool
    ) -> Tensor:
        """(columns, K), float64. `losses` and `gradients` are asked with the parameters moved, which then are put back; `first`:
        whether these runs have not been measured before."""
        after = [p.clone() for p in self.parameters]
        at, gradient = self.flat(move.before), self.flat(move.gradients)
        update = self.flat(after) - at

        def losses_at(place: Vector) -> Tensor:
            self.put(place)
            return losses()

        def gradients_at(place: Vector) -> Vector:
            self.put(place)
            with torch.enable_grad():
                return self.flat(gradients())

        begin = torch.where((self.rate > 0) & self.rate.isfinite(), self.rate / move.lr, 1.0)
        c = critical_multiple(losses_at, at, update, move.losses, dot(gradient, update), begin, PASSES[first])
        self.rate.copy_(c * move.lr)
        H, D = hessian(gradients_at, at, gradient), self.flat(move.D)
        trains, root = (D > 0).to(D), D.sqrt()
        sharpness = self._largest(H, self.of_hessian, trains, first)
        preconditioned = self._largest(lambda v: root * H(root * v), self.of_preconditioned, trains, first)
        for p, value in zip(self.parameters, after, strict=True):
            p.copy_(value)
        return torch.stack([self.rate, sharpness, preconditioned])

    @staticmethod
    def _largest(product: Callable[[Vector], Vector], carried: Vector, trains: Vector, first: bool) -> Tensor:
        """Eigenvalues (K,), from the directions that are `carried`, which those of now replace."""
        largest, direction = top_eigenvalue(product, carried * trains, PRODUCTS[first])
        carried.copy_(direction)
        return largest

    def flat(self, tensors: Sequence[Tensor]) -> Vector:
        parts = zip(tensors, self.sizes, strict=True)
        return torch.cat([t.to(self.of_hessian).flatten(1).expand(-1, size) for t, size in parts], 1)

    def put(self, vector: Vector) -> None:
        """Let these be what the runs train."""
        for p, part in zip(self.parameters, vector.split(self.sizes, 1), strict=True):
            p.copy_(part.view_as(p))

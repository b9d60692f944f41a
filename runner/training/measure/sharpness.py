"""How sharp the training loss is where a run stands: along its own update, and in the direction that is sharpest.

Everything is asked of the engine that trains, at parameters that are moved for a moment.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from runner.config.schema import SharpnessConfig
from runner.core.exact import sqrt_
from runner.core.rng import generator, normal
from runner.training.measure.curvature import Vector, critical_multiple, dot, hessian, length, top_eigenvalue
from runner.training.optimizers.base import per_run

COLUMNS = ("stability/critical_lr", "stability/sharpness", "stability/preconditioned")
VECTORS = 50  # numbers that a measurement holds for each that is trained


class Look(Enum):
    """What a measurement takes the time for; all but the first begin where the last one ended."""

    FIRST = "all, from nothing"
    ALL = "all three"
    EARLY = "the critical rate, which may be another by far than at the last look"
    RATE = "the critical rate alone"


# Forward passes of the search along an update, beside one where it begins, and steps of Lanczos for each eigenvalue.
PASSES = {Look.FIRST: 7, Look.ALL: 7, Look.EARLY: 7, Look.RATE: 3}
PRODUCTS = {Look.FIRST: 12, Look.ALL: 8, Look.EARLY: 0, Look.RATE: 0}
EARLY = 5  # looks: under Init[A] the critical rate falls to a tenth with the first update


def cost(options: SharpnessConfig) -> float:
    """Of the looks along a long training, in updates for each update. A forward pass is a third of an update."""
    if options.every is None:
        return 0.0
    passes, others = PASSES[Look.ALL] + 1, PASSES[Look.RATE] + 1
    all_three, rate = passes / 3 + 2 * PRODUCTS[Look.ALL], others / 3
    return (rate + (all_three - rate) / options.eigenvalues) / options.every


@dataclass(frozen=True)
class Move:
    """An update of K runs: of each parameter what it was before, its gradient there, and by what P the optimizer divided (None:
    by nothing); `ratios` (parameters, K) of learning rates, 0 where a run does not train it, and whether all others are 1; rates
    (K,), and by what gradients were clipped (K,)."""

    before: Sequence[Tensor]
    gradients: Sequence[Tensor]
    ratios: Tensor
    alike: bool
    P: Sequence[Tensor] | None
    lr: Tensor
    clipped: Tensor | float

    @property
    def D(self) -> list[Tensor]:
        """(K, …): what an update is times the rate and a mean of gradients, before they were clipped; 0 where nothing moves."""
        ratios = list((self.ratios * self.clipped)[:, :, None])
        if self.P is None:
            return ratios
        return [torch.where(P > 0, per_run(ratio, P) / P, 0) for ratio, P in zip(ratios, self.P, strict=True)]


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
        self.start = normal(sum(self.sizes), variance=1, generator=generator(0, "lanczos")).to(p)
        self.of_hessian, self.of_preconditioned = (self.start.repeat(len(p), 1) for _ in range(2))
        self.rate = torch.zeros(len(p), dtype=torch.float64, device=p.device)

    @property
    def state(self) -> dict[str, Tensor]:
        return {"rate": self.rate, "hessian": self.of_hessian, "preconditioned": self.of_preconditioned}

    @torch.no_grad()
    def measure(
        self, move: Move, losses: Callable[[], Tensor], gradients: Callable[[], Sequence[Tensor]], look: Look
    ) -> Tensor:
        """(columns, K), float64, nan where this `look` measures nothing. `losses` and `gradients` are asked with the parameters
        moved, which then are put back."""
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
        c, begin = critical_multiple(losses_at, at, update, dot(gradient, update), begin, PASSES[look])
        self.rate.copy_(begin * move.lr)
        sharpness = preconditioned = torch.full_like(c, torch.nan)
        if PRODUCTS[look]:
            H, trains = hessian(gradients_at, at, gradient), self.flat(list((move.ratios != 0)[:, :, None]))
            sharpness = self._largest(H, self.of_hessian, trains, PRODUCTS[look])
            preconditioned = sharpness * move.clipped
            if move.P is not None or not move.alike:  # else that is it
                root = sqrt_(self.flat(move.D))
                moves = (root > 0).to(root)
                preconditioned = self._largest(
                    lambda v: root * H(root * v), self.of_preconditioned, moves, PRODUCTS[look]
                )
        for p, value in zip(self.parameters, after, strict=True):
            p.copy_(value)
        return torch.stack([c * move.lr, sharpness, preconditioned])

    def _largest(self, product: Callable[[Vector], Vector], carried: Vector, among: Vector, products: int) -> Tensor:
        """Eigenvalues (K,), on the entries where `among` is 1, from the directions `carried`, which new ones replace."""
        usable = length(carried * among) > 0  # not where it is nan
        start = torch.where(usable[:, None], carried, self.start) * among
        largest, direction = top_eigenvalue(product, start, products)
        carried.copy_(torch.where((length(direction) > 0)[:, None], direction, self.start))
        return largest

    def flat(self, tensors: Sequence[Tensor]) -> Vector:
        parts = zip(tensors, self.sizes, strict=True)
        return torch.cat([t.to(self.of_hessian).flatten(1).expand(-1, size) for t, size in parts], 1)

    def put(self, vector: Vector) -> None:
        """Let these be what the runs train."""
        for p, part in zip(self.parameters, vector.split(self.sizes, 1), strict=True):
            p.copy_(part.view_as(p))

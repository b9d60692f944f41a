"""A step of K runs in lockstep: losses, gradients, update, and what is measured of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.adapters import Adapter
from runner.config import Config
from runner.tasks.base import Task
from runner.training.engines import Engine
from runner.training.log import Log
from runner.training.measure.intruders import COLUMN as INTRUDERS
from runner.training.measure.intruders import intruders
from runner.training.measure.layers import Meters
from runner.training.measure.sharpness import Look, Move, Sharpness
from runner.training.measure.subspaces import Subspaces
from runner.training.optimizers import base as optimizers
from runner.training.optimizers.clipping import clip, clipping
from runner.training.optimizers.pairs import Pairs
from runner.training.optimizers.schedules import learning_rates as schedule
from runner.training.stability import Stability
from runner.training.start import trained

LEFT_OUT = 1 / 8  # share of diverged runs from which a step goes on without them; to leave them takes less than a step


class Step:
    """What happens to all runs at a step, in operations on tensors alone.

    Nothing of it waits for the device, but for what is counted at the end, and whatever depends on the step is read from tensors
    that `to` sets: so a GPU can replay it (`recorded`). `runs`: which of the stack's take part; `log` and `stability` are of all
    of them.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        task: Task,
        adapters: dict[str, Adapter],
        device: torch.device,
        dtype: torch.dtype,
    ):
        shared, self.options = configs[0], [c.optimizer for c in configs]
        self.task, self.runs = task, torch.arange(len(configs), device=device)
        trains = trained(adapters)
        self.trains = None if trains.all() else trains.to(device)
        self.rates, ratios = schedule(self.options, shared.steps).to(device), lr_ratios(configs, adapters)
        self.ratios, self.alike = (ratios * trains).to(device), bool((ratios == 1).all())
        self.max_norm = clipping(self.options, device)
        self.probe = task.probe(shared.probe.size)
        self.looks = shared.sharpness.every is not None
        self.parts = shared.task.accumulation if shared.log.noise else None
        self.subspaces = subspaces_of(configs, task, adapters) if shared.log.subspaces else None
        self.followed = {layer: W0.to(device) for layer, W0 in task.layers.items() if shared.log.directions}
        self._train(adapters)
        self.log = Log(configs, list(task.layers), self.meters.columns, task.evals, device)
        self.stability = Stability(configs, device, dtype)
        self.now, self.row = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))

    def _train(self, adapters: dict[str, Adapter]) -> None:
        """Let these adapters, of the `runs`, be those that are trained."""
        self.adapters = adapters
        self.parameters = [p.detach() for adapter in adapters.values() for p in adapter.parameters.values()]
        self.before = [torch.empty_like(p) for p in self.parameters]
        options = [self.options[k] for k in self.runs.tolist()]
        self.optimizer = optimizers.build(options, self.parameters)
        self.pairs = Pairs(options, adapters, self.trains, self.runs.device)
        layers = [(adapters[layer], self.probe[layer], self.followed.get(layer)) for layer in self.task.layers]
        self.meters = Meters(layers, self.subspaces, self.parts)
        self.sharpness = Sharpness(self.parameters) if self.looks else None

    def leave_out(self) -> None:
        """Go on without the runs that have diverged, once they are an eighth of those that take part. For engines that give a
        run the same bits whatever runs are beside it."""
        [kept] = self.stability.alive[self.runs].nonzero(as_tuple=True)
        if not 0 < len(kept) <= (1 - LEFT_OUT) * len(self.runs):
            return
        state = self._carried
        self.runs, self.rates, self.ratios = self.runs[kept], self.rates[:, kept], self.ratios[:, kept]
        self.trains = None if self.trains is None else self.trains[:, kept]
        self.max_norm = None if self.max_norm is None else self.max_norm[kept]
        self.subspaces = None if self.subspaces is None else self.subspaces.of(kept)
        with torch.no_grad():
            adapters = {name: adapter.of(kept) for name, adapter in self.adapters.items()}
        for p in (p for adapter in adapters.values() for p in adapter.parameters.values()):
            p.requires_grad_()
        self._train(adapters)
        for name, tensor in self._carried.items():
            tensor.copy_(state[name][kept])

    def to(self, step: int) -> None:
        """Let this step come next."""
        self.task.to_step(step)
        self.now.fill_(step)
        self.row.fill_(self.log.index.get(step, 0))

    def __call__(self, engine: Engine, evaluates: bool, has_row: bool, last: bool, look: Look | None = None) -> None:
        """Of the runs as they are: losses, evaluations if it `evaluates`, an update unless it is the `last`, and a row of the log
        if it `has_row`, with what a `look` at the sharpness finds."""
        self.task.measures_noise = has_row and self.parts is not None
        losses, gradients = engine.loss_and_grad(self.adapters)
        squares, self.task.measures_noise = self.task.part_squares, False
        self.log.lost(self.now, self.runs, losses)
        self.stability.update(self.now, self.runs, losses)
        if evaluates:
            self.log.evaluated(self.row, self.runs, engine.evaluate(self.adapters))
        if has_row:
            for old, p in zip(self.before, self.parameters, strict=True):
                old.copy_(p)
        if not last:
            used = self._used(gradients)
            lr = self.rates[self.now].squeeze(0)
            clipped, by = (used, 1.0) if self.max_norm is None else clip(used, self.max_norm)
            directions = self.pairs.precondition(clipped, self.parameters)
            self.pairs.shrink(self.parameters)
            self.optimizer.step(directions, lr * self.ratios)
            if look:
                P = self.optimizer.preconditioner(clipped)
                move = Move(self.before, used, self.ratios, self.alike, P, lr, by)
                self.log.sharp(self.row, self.runs, self._look(engine, move, look))
        if has_row:
            metrics = self.meters.measure(self.before, gradients, self.parameters, squares)
            self.log.measured(self.row, self.runs, metrics)

    def count_intruders(self) -> None:
        """At the end of training, of the runs that got there; on the CPU."""
        [alive] = self.stability.alive[self.runs].nonzero(as_tuple=True)
        counts = [intruders(self.adapters[layer].of(alive), W0) for layer, W0 in self.task.layers.items()]
        self.log.ended(INTRUDERS, self.runs[alive], torch.stack(counts).to(alive.device))

    def _used(self, gradients: list[Tensor]) -> list[Tensor]:
        """Without those of what a run does not train."""
        return gradients if self.trains is None else optimizers.mask_frozen(gradients, self.trains)

    def _look(self, engine: Engine, move: Move, look: Look) -> Tensor:
        """How sharp the loss is around the update just made."""
        return self.sharpness.measure(
            move,
            lambda: engine.losses(self.adapters),
            lambda: self._used(engine.loss_and_grad(self.adapters)[1]),
            look,
        )

    @property
    def _carried(self) -> dict[str, Tensor]:
        """What is carried from step to step beside the parameters, of the runs that take part, by name."""
        looks = {} if self.sharpness is None else self.sharpness.state
        own = {"optimizer": self.optimizer.state, "sharpness": looks}
        return {f"{part}/{name}": t for part, state in own.items() for name, t in state.items()}

    @property
    def state(self) -> dict[str, Tensor]:
        """Every tensor that is carried from step to step, of all runs, by name; zeros of those that do not take part."""
        own = {f"parameter{i}": p for i, p in enumerate(self.parameters)} | self._carried
        if len(self.runs) < len(self.options):
            own = {n: t.new_zeros(len(self.options), *t.shape[1:]).index_copy_(0, self.runs, t) for n, t in own.items()}
        shared = {"log": self.log, "stability": self.stability}
        return own | {f"{part}/{name}": t for part, of in shared.items() for name, t in of.state.items()}


@torch.no_grad()
def subspaces_of(configs: Sequence[Config], task: Task, adapters: dict[str, Adapter]) -> Subspaces:
    """What follows the spans of factors from where they are now, before the first step."""
    start = [adapters[layer].learned([*adapters[layer].parameters.values()]) for layer in task.layers]
    return Subspaces(start, configs[0].adapter.rank)


def lr_ratios(configs: Sequence[Config], adapters: dict[str, Adapter]) -> Tensor:
    """(parameters, K) float64: the learning rate of each parameter over the run's; `lr_ratio` on the output side."""
    ratios = torch.tensor([c.optimizer.lr_ratio for c in configs], dtype=torch.float64)
    sides = [adapter.sides.get(name) for adapter in adapters.values() for name in adapter.parameters]
    return torch.stack([ratios if side == "B" else torch.ones_like(ratios) for side in sides])

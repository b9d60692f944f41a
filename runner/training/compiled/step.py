"""The compiled step: losses and gradients of K runs of a model, a few runs at a time, by a function that inductor made.

What Python does between two operations is saved, and what is only stored for the next one. Products with the frozen weights
take as long as before. On one thread the runs go one by one, which needs the memory of one run's activations and is as fast.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule

from runner.tasks.base import Adapters, run_count
from runner.tasks.finetuning import ModelTask
from runner.tasks.models.hooks import Dropout
from runner.tasks.models.text import Examples
from runner.training.compiled import graph, package


class Parts(NamedTuple):
    """A step in two parts, for a fixed number of runs at a time: of examples and the frozen model, by torch's operations, and of
    what that gives and all that a run has, compiled. `dropped`: shapes of what layers drop from, in their order; `layout`: of the
    adapters' tensors, which the compiled part reads by it and does not check."""

    frozen: GraphModule
    trained: package.Step
    dropped: tuple[torch.Size, ...]
    layout: graph.Layout


class Compiled:
    """Answers a model's question, what the losses and gradients of the stacked adapters are, for these adapters, `size` runs at a
    time. Raises ValueError where their tensors are not laid out as those that were compiled for."""

    def __init__(self, task: ModelTask, adapters: Adapters, parts: Parts, size: int):
        self.task, self.parts, self.losses, self.evaluate = task, parts, task.losses, task.evaluate
        runs = run_count(adapters)
        starts = range(0, runs, size)
        # The last group starts earlier rather than to be smaller: the size of what was compiled is fixed.
        self.groups = [slice(start, start + size) for start in (min(start, runs - size) for start in starts)]
        self.new = [slice(start - group.start, size) for start, group in zip(starts, self.groups, strict=True)]
        # Views of tensors that are updated in place.
        self.own = [graph.tensors({name: a.of(group) for name, a in adapters.items()}) for group in self.groups]
        if any(graph.layout(own) != parts.layout for own in self.own):
            raise ValueError("tensors of some runs lie in memory in another way than those that it was compiled for")
        self.frozen = list(graph.Part(task).frozen().values())

    def loss_and_grad(self, adapters: Adapters) -> tuple[Tensor, list[Tensor]]:
        """As `Task.loss_and_grad`."""
        return self.task.accumulated(self.of_part)

    @torch.no_grad()
    def of_part(self, examples: Examples, dropout: Dropout | None) -> tuple[Tensor, list[Tensor]]:
        """As `ModelTask.of_part`."""
        each, known, outputs = len(examples) // self.groups[-1].stop, {}, []
        for runs, own, new in zip(self.groups, self.own, self.new, strict=True):
            seeds = tuple(self.task.order.seeds[runs])  # runs of a seed see the same
            if seeds not in known:
                seen = examples.each(lambda t, runs=runs: t[each * runs.start : each * runs.stop])
                known[seeds] = self.parts.frozen(*graph.tensors(seen), *self.frozen)
            some = None if dropout is None else dropout.of(runs)
            factors = [some.factors(shape) for shape in self.parts.dropped] if some else []
            outputs.append([t[new] for t in self.parts.trained(*known[seeds], *own, *factors)])
        losses, *gradients = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        return losses, gradients

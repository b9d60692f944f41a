"""The compiled step: losses and gradients of K runs of a model, a few runs at a time, by a function that inductor made.

What Python does between two operations is saved, and what is only stored for the next one. Products with the frozen weights
take as long as before. On one thread the runs go one by one, which needs the memory of one run's activations and is as fast.
"""

from collections.abc import Sequence
from functools import cache
from time import perf_counter

import torch
from torch import Tensor

from runner.core.messages import first_line, say
from runner.tasks.base import Adapters
from runner.tasks.finetuning import ModelTask
from runner.tasks.models.hooks import Dropout
from runner.tasks.models.text import Examples
from runner.training.compiled import graph, package

GAIN = 0.2  # share of a step's time that is saved, at least
SECONDS_A_LAYER = {"traced": 0.05, "compiled": 1.5}  # that a graph takes for each adapted layer


class Compiled:
    """Answers a model's question, what the losses and gradients of the stacked adapters are, for these adapters.

    `parts` of the step are for `size` runs, and `trained` is what was compiled of the second; `dropped`: shapes of what layers
    drop from, in their order.
    """

    def __init__(
        self,
        task: ModelTask,
        adapters: Adapters,
        parts: graph.Split,
        trained: package.Step,
        size: int,
        dropped: Sequence[torch.Size],
    ):
        self.task, self.parts, self.trained, self.dropped = task, parts, trained, dropped
        self.evaluate = task.evaluate
        runs = _runs(adapters)
        starts = range(0, runs, size)
        # The last group starts earlier rather than to be smaller: the size of what was compiled is fixed.
        self.groups = [slice(start, start + size) for start in (min(start, runs - size) for start in starts)]
        self.new = [slice(start - group.start, size) for start, group in zip(starts, self.groups, strict=True)]
        # Views of tensors that are updated in place.
        self.own = [graph.tensors({name: a.of(group) for name, a in adapters.items()}) for group in self.groups]
        self.frozen = list(graph.Part(task).frozen().values())

    def loss_and_grad(self, adapters: Adapters, step: int) -> tuple[Tensor, list[Tensor]]:
        """As `Task.loss_and_grad`."""
        return self.task.accumulated(step, self.of_part)

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
            factors = [some.factors(shape) for shape in self.dropped] if some else []
            outputs.append([t[new] for t in self.trained(*known[seeds], *own, *factors)])
        losses, *gradients = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        return losses, gradients


def group_size(runs: int) -> int:
    """How many of so many runs go together."""
    threads = torch.get_num_threads()
    return min(runs, 1 if threads == 1 else 2 * threads)


def compile_step(task: ModelTask, adapters: Adapters, bases: str, ahead: int | None = None) -> Compiled | None:
    """The compiled step, kept under `bases`, or None: where it cannot be had, which one line says, and where it does not pay.

    `ahead`: how many steps of a run are to come in the sweep; None: it pays whatever it takes. Losses and gradients of the
    first group are compared with autograd's: what was compiled wrong is not used.
    """
    size = group_size(_runs(adapters))
    group = slice(0, size)
    first = {name: adapter.of(group) for name, adapter in adapters.items()}
    own = task.seen(0, 0).each(lambda t: t[: len(t) // _runs(adapters) * size])

    def dropout_of(runs: slice) -> Dropout | None:
        dropout = task.dropout(0, 0)
        return None if dropout is None else dropout.of(runs)

    some = dropout_of(group)
    started = perf_counter()
    theirs = task.of_part(first, own, some)
    saved = GAIN * (perf_counter() - started) / size * (ahead or 0)
    if ahead is not None and saved < SECONDS_A_LAYER["traced"] * len(adapters):
        return None
    dropped = some.shapes if some else []
    factors = [torch.ones(shape) for shape in dropped]
    frozen = [*graph.tensors(own), *graph.Part(task).frozen().values()]
    try:
        parts = graph.split(graph.trace(task, first, own, factors), len(frozen))
        inputs = [*parts.frozen(*frozen), *graph.tensors(first), *factors]
        folder = package.folder(bases, graph.key(parts.trained, inputs))
        if ahead is not None and saved < SECONDS_A_LAYER["compiled"] * len(adapters) and not package.is_kept(folder):
            return None
        trained = package.compiled(parts.trained, inputs, folder, wait=ahead is None)
        ours = Compiled(task, first, parts, trained, size, dropped).of_part(own, dropout_of(group))
    except BlockingIOError:  # another process is compiling it
        return None
    except Exception as error:  # of many kinds: no compiler, a full disk, a model that cannot be traced
        say_once(
            f"the step of {task.config.model} cannot be compiled ({first_line(error)}); it is trained with engine=autograd"
        )
        return None
    (loss, new), (expected_loss, expected) = ours, theirs
    difference = _norm([a - b for a, b in zip([loss, *new], [expected_loss, *expected], strict=True)])
    if not difference <= torch.finfo(task.base_dtype).eps ** 0.5 * _norm([expected_loss, *expected]):
        say_once(f"the step of {task.config.model} was compiled wrong; it is trained with engine=autograd")
        return None
    return Compiled(task, adapters, parts, trained, size, dropped)


def _runs(adapters: Adapters) -> int:
    return len(next(iter(next(iter(adapters.values())).parameters.values())))


def _norm(tensors: Sequence[Tensor]) -> float:
    return sum(t.double().square().sum().item() for t in tensors) ** 0.5


@cache
def say_once(sentence: str) -> None:
    """Once."""
    say(sentence)

"""Whether a stack's step is compiled: where it can be, where it pays, and where it gives what autograd gives."""

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
from runner.training.compiled.step import Compiled, Parts, count

GAIN = 0.2  # share of a step's time that is saved, at least
SECONDS_A_LAYER = {"traced": 0.1, "compiled": 1.5}  # that a graph takes for each adapted layer
MADE = 8  # steps that a process keeps

_made: dict[str, Parts] = {}


def compile_step(task: ModelTask, adapters: Adapters, bases: str, ahead: int | None = None) -> Compiled | None:
    """The compiled step, kept under `bases`, or None: where it cannot be had, which one line says, and where it does not pay.

    `ahead`: how many steps of a run are to come in the sweep; None: it pays whatever it takes. Losses and gradients of the
    first group of runs are compared with autograd's: what was compiled wrong is not used.
    """
    size = group_size(count(adapters))
    first = {name: adapter.of(slice(0, size)) for name, adapter in adapters.items()}
    examples = task.seen(0, 0).each(lambda t: t[: len(t) // count(adapters) * size])
    dropout = _dropout(task, size)
    started = perf_counter()
    theirs = task.of_part(first, examples, dropout)
    saved = None if ahead is None else GAIN * (perf_counter() - started) / size * ahead
    try:
        parts = _parts(task, first, examples, tuple(dropout.shapes) if dropout else (), bases, saved)
        if parts is None:
            return None
        ours = Compiled(task, first, parts, size).of_part(examples, _dropout(task, size))
    except Exception as error:  # of many kinds: no compiler, a full disk, a model that cannot be traced
        say_once(f"the step of {task.config.model} cannot be compiled ({first_line(error)}); autograd trains it")
        return None
    if not _agree(ours, theirs, torch.finfo(task.base_dtype).eps ** 0.5):
        say_once(f"the step of {task.config.model} was compiled wrong; autograd trains it")
        return None
    return Compiled(task, adapters, parts, size)


def group_size(runs: int) -> int:
    """How many of so many runs go together."""
    threads = torch.get_num_threads()
    return min(runs, 1 if threads == 1 else 2 * threads)


def _parts(
    task: ModelTask,
    adapters: Adapters,
    examples: Examples,
    dropped: tuple[torch.Size, ...],
    bases: str,
    saved: float | None,
) -> Parts | None:
    """What this process has made already, or makes now; None where that takes longer than the seconds `saved`."""

    def pays(what: str) -> bool:
        return saved is None or saved > SECONDS_A_LAYER[what] * len(adapters)

    name = graph.name(task, adapters, examples, dropped)
    if name in _made:
        return _made[name]
    if not pays("traced"):
        return None
    factors = [torch.ones(shape) for shape in dropped]
    frozen = [*graph.tensors(examples), *graph.Part(task).frozen().values()]
    of_frozen, of_trained = graph.split(graph.trace(task, adapters, examples, factors), len(frozen))
    inputs = [*of_frozen(*frozen), *graph.tensors(adapters), *factors]
    folder = package.folder(bases, graph.key(of_trained, inputs))
    if not pays("compiled") and not package.is_kept(folder):
        return None
    try:
        made = Parts(of_frozen, package.compiled(of_trained, inputs, folder, wait=saved is None), dropped)
    except BlockingIOError:  # another process is compiling it
        return None
    if len(_made) == MADE:
        del _made[next(iter(_made))]
    return _made.setdefault(name, made)


def _dropout(task: ModelTask, runs: int) -> Dropout | None:
    """Of the first runs at the first step."""
    dropout = task.dropout(0, 0)
    return None if dropout is None else dropout.of(slice(0, runs))


def _agree(ours: tuple[Tensor, list[Tensor]], theirs: tuple[Tensor, list[Tensor]], tolerance: float) -> bool:
    (our_loss, our_gradients), (loss, gradients) = ours, theirs
    expected = [loss, *gradients]
    difference = [a - b for a, b in zip([our_loss, *our_gradients], expected, strict=True)]
    return _norm(difference) <= tolerance * _norm(expected)


def _norm(tensors: Sequence[Tensor]) -> float:
    return sum(t.double().square().sum().item() for t in tensors) ** 0.5


@cache
def say_once(sentence: str) -> None:
    say(sentence)

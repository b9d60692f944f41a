"""Whether a stack's step is compiled: where it can be, where it pays, and where it gives what autograd gives."""

from collections.abc import Callable, Sequence
from functools import cache
from time import perf_counter
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from runner.core.messages import first_line, say
from runner.core.rng import generator
from runner.tasks.base import Adapters, run_count
from runner.tasks.finetuning import ModelTask
from runner.tasks.models import spec
from runner.tasks.models.hooks import Dropout
from runner.tasks.models.kept import BusyError
from runner.tasks.models.text import Examples
from runner.training.compiled import graph, package
from runner.training.compiled.step import Compiled, Parts

# Before it is measured: the share that is saved of what a step takes beside products with frozen weights, at least (seen: 0.35
# to 0.6), and what a graph takes, for an adapted layer to be traced, and for an operation to be compiled.
GAIN = 0.35
SECONDS_A_LAYER, SECONDS_A_NODE = 0.15, 0.015
MOVED = 0.01  # how far parameters are moved for the comparison, in which those that start at zero would hide half the gradients
LEAST = 1e-3  # of all gradients' norm, below which one of them need not be right by itself
MADE = 8  # steps that a process keeps

T = TypeVar("T")
Result = tuple[Tensor, list[Tensor]]  # losses, gradients


class Traced(NamedTuple):
    """A graph that was not compiled when it was traced, because it did not pay or another process was at it."""

    frozen: GraphModule
    trained: GraphModule
    key: str


_made: dict[str, Parts | None] = {}  # None: it cannot be compiled
_traced: dict[str, Traced] = {}
_faster: dict[tuple[str, int], bool] = {}  # than autograd on stacks of so many runs


def forget() -> None:
    """What this process has made, traced and timed."""
    for known in (_made, _traced, _faster):
        known.clear()


def compile_step(task: ModelTask, adapters: Adapters, bases: str, ahead: int | None = None) -> Compiled | None:
    """The compiled step, kept under `bases`, or None: where it cannot be had, which one line says, and where it does not pay.

    `ahead`: steps that are planned for all runs like these together; None: it pays whatever it takes. Losses and gradients of the
    first group of runs, with parameters moved at random, are compared with autograd's: what was compiled wrong is not used.
    """
    size = group_size(run_count(adapters))
    first = _moved({name: adapter.of(slice(0, size)) for name, adapter in adapters.items()})
    examples = task.seen(0).each(lambda t: t[: len(t) // run_count(adapters) * size])
    name, model = graph.name(task, first, examples), task.config.model
    stack = name, run_count(adapters)
    if _made.get(name, ()) is None or (ahead is not None and not _faster.get(stack, True)):
        return None
    dropout = _dropout(task, size)
    seconds, theirs = _timed(lambda: task.of_part(first, examples, dropout))
    saved = None
    if ahead is not None:
        beside = max(0.0, seconds - products(task, examples))
        saved = GAIN * beside * task.config.accumulation / size * ahead
    try:
        parts = _parts(name, task, first, examples, tuple(dropout.shapes) if dropout else (), bases, saved)
        if parts is None:
            return None
        step, whole = (Compiled(task, a, parts, size) for a in (first, adapters))
        ours = step.of_part(examples, _dropout(task, size))
    except Exception as error:  # of many kinds: no compiler, a full disk, a model that cannot be traced
        _made[name] = None
        say_once(f"the step of {model} cannot be compiled ({first_line(error)}); autograd trains it")
        return None
    if not _agree(ours, theirs, _tolerance(task)):
        _made[name] = None
        say_once(f"the step of {model} was compiled wrong; autograd trains it")
        return None
    if ahead is not None and stack not in _faster:
        _faster[stack] = _is_faster(task, adapters, step, examples, size)
        if not _faster[stack]:
            return None
    return whole


def group_size(runs: int) -> int:
    """How many of so many runs go together."""
    threads = torch.get_num_threads()
    return min(runs, 1 if threads == 1 else 2 * threads)


def _parts(
    name: str,
    task: ModelTask,
    adapters: Adapters,
    examples: Examples,
    dropped: tuple[torch.Size, ...],
    bases: str,
    saved: float | None,
) -> Parts | None:
    """What this process has made already, or makes now; None where that takes longer than the seconds `saved`."""

    if name in _made:
        return _made[name]
    if name not in _traced and saved is not None and saved <= SECONDS_A_LAYER * len(adapters):
        return None
    factors = [torch.ones(shape) for shape in dropped]
    frozen = [*graph.tensors(examples), *graph.Part(task).frozen().values()]
    if name not in _traced:
        parts = graph.split(graph.trace(task, adapters, examples, factors), len(frozen))
        inputs = [*parts[0](*frozen), *graph.tensors(adapters), *factors]
        _keep(_traced, name, Traced(*parts, graph.key(parts[1], inputs)))
    traced = _traced[name]
    folder = package.folder(bases, traced.key)
    pays = saved is None or saved > SECONDS_A_NODE * len(traced.trained.graph.nodes)
    if not pays and not package.is_kept(folder):
        return None
    inputs = [*traced.frozen(*frozen), *graph.tensors(adapters), *factors]
    try:
        trained = package.compiled(traced.trained, inputs, folder, wait=saved is None)
    except BusyError:  # another process is compiling it
        return None
    _keep(_made, name, Parts(traced.frozen, trained, dropped, graph.layout(graph.tensors(adapters))))
    return _made[name]


def _keep(where: dict, name: str, what: Parts | Traced) -> None:
    """The last few."""
    if len(where) >= MADE:
        del where[next(iter(where))]
    where[name] = what


def _moved(adapters: Adapters) -> Adapters:
    """Copies with other values of what trains, which lie in memory as they do: that is what a step is compiled for."""
    chance = generator(0, "compiled")

    def copied(t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).copy_(t.detach())

    moved = {n: adapter.each(lambda t, per_run: copied(t) if per_run else t) for n, adapter in adapters.items()}
    for adapter in moved.values():
        for p in adapter.parameters.values():
            p += MOVED * torch.randn(p.shape, generator=chance).to(p)
            p.requires_grad_()
    return moved


def _dropout(task: ModelTask, runs: int) -> Dropout | None:
    """Of the first runs."""
    dropout = task.dropout(0)
    return None if dropout is None else dropout.of(slice(0, runs))


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = perf_counter()
    result = work()
    return perf_counter() - started, result


def products(task: ModelTask, examples: Examples) -> float:
    """Seconds that the products with frozen weights take, forward and backward: of them nothing can be saved. By the largest."""
    weights = [spec.weight(module) for module in spec.linear_layers(task.model).values()]
    largest = max(weights, key=Tensor.numel)
    x = torch.randn(examples.tokens.numel(), largest.shape[1], generator=generator(0, "compiled")).to(largest)
    seconds = min(_timed(lambda: x @ largest.T)[0] for _ in range(3))
    return 2 * seconds * sum(W.numel() for W in weights) / largest.numel()


def _is_faster(task: ModelTask, adapters: Adapters, step: Compiled, examples: Examples, size: int) -> bool:
    """Per run than autograd, which takes all runs of the stack at once; the better of two times each."""
    runs = run_count(adapters)
    times = [
        (
            _timed(lambda: task.of_part(adapters, task.seen(0), _dropout(task, runs)))[0] / runs,
            _timed(lambda: step.of_part(examples, _dropout(task, size)))[0] / size,
        )
        for _ in range(2)
    ]
    by_autograd, compiled = (min(of) for of in zip(*times, strict=True))
    return compiled < by_autograd


def _tolerance(task: ModelTask) -> float:
    """Half the digits of what the frozen model computes in; models take norms in float32, whatever else they are given."""
    return max(torch.finfo(kind).eps for kind in (task.base_dtype, torch.float32)) ** 0.5


def _agree(ours: Result, theirs: Result, tolerance: float) -> bool:
    """Losses and each gradient, relative to its norm."""
    if not theirs[0].isfinite().all():
        return not ours[0].isfinite().all()
    least = LEAST * _norm(theirs[1])
    return _norm([ours[0] - theirs[0]]) <= tolerance * _norm([theirs[0]]) and all(
        _norm([a - b]) <= tolerance * max(least, _norm([b])) for a, b in zip(ours[1], theirs[1], strict=True)
    )


def _norm(tensors: Sequence[Tensor]) -> float:
    return sum(t.double().square().sum().item() for t in tensors) ** 0.5


@cache
def say_once(sentence: str) -> None:
    say(sentence)

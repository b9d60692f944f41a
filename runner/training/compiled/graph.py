"""A model's step for a few runs as one graph of tensor operations, forward and backward, with everything it reads as an input."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.nn.attention import SDPBackend, sdpa_kernel

from runner.core.compiled import PROCESSOR
from runner.tasks.base import Adapters
from runner.tasks.finetuning import ModelTask
from runner.tasks.models.text import Examples

Layout = list[tuple[tuple[int, ...], tuple[int, ...], str]]  # shape, strides, dtype of each tensor
SHORT = 4  # scores of a token, in all heads, that are kept at most, for each coordinate of it


class Part(nn.Module):
    """`ModelTask.of_part` as a module of its model, so that the model's weights can be given to it."""

    def __init__(self, task: ModelTask):
        super().__init__()
        self.model, self.of_part = task.model, task.of_part

    def forward(self, *inputs: Any) -> tuple[Tensor, list[Tensor]]:
        return self.of_part(*inputs)

    def frozen(self) -> dict[str, Tensor]:
        """Weights and buffers of the model, by name."""
        return dict(self.named_parameters()) | dict(self.named_buffers())


def tensors(of: Examples | Adapters) -> list[Tensor]:
    """All that there are in examples or adapters, in order."""
    found: list[Tensor] = []

    def see(t: Tensor, **_: bool) -> Tensor:
        found.append(t.detach())
        return t

    for each in [of] if isinstance(of, Examples) else of.values():
        each.each(see)
    return found


def layout(tensors: Sequence[Tensor]) -> Layout:
    """How they lie in memory."""
    return [(tuple(t.shape), t.stride(), str(t.dtype)) for t in tensors]


def trace(task: ModelTask, adapters: Adapters, examples: Examples, factors: Sequence[Tensor]) -> GraphModule:
    """The graph of `ModelTask.of_part`, without operations in place.

    Its inputs are `tensors` of the examples, the model's weights and buffers, `tensors` of the adapters, and dropout's `factors`
    in the order in which layers ask for them. Shapes are fixed. Nothing is computed, so whatever would depend on a value that is
    not known yet raises an error.
    """
    part = Part(task)
    inputs = [*tensors(examples), *part.frozen().values(), *tensors(adapters), *factors]

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = iter(inputs)

        def replace(t: Tensor, **_: bool) -> Tensor:
            return next(given).detach()

        seen = examples.each(replace)
        weights = {name: next(given) for name in part.frozen()}
        now = {name: adapter.each(replace) for name, adapter in adapters.items()}
        for adapter in now.values():
            for p in adapter.parameters.values():
                p.requires_grad_()
        dropout: Callable[[Tensor], Tensor] | None = (lambda x: x * next(given).to(x)) if factors else None
        losses, gradients = torch.func.functional_call(part, weights, (now, seen, dropout))
        return losses, *gradients

    with _attention(task):
        with_autograd = make_fx(step, tracing_mode="fake")(*inputs)
    return make_fx(torch.func.functionalize(with_autograd), tracing_mode="fake")(*inputs)


def _attention(task: ModelTask) -> AbstractContextManager[None]:
    """How attention is traced: for short sequences by its formula, whose passes over the scores become one. It keeps a score for
    each pair of tokens and head, which longer ones, as torch's own kernel takes them, do not."""
    model = task.model.config
    heads, width = (getattr(model, name, None) for name in ("num_attention_heads", "hidden_size"))
    short = heads and width and task.config.sequence_length * heads <= SHORT * width
    return sdpa_kernel(SDPBackend.MATH) if short else nullcontext()


def split(graph: GraphModule, shared: int) -> tuple[GraphModule, GraphModule]:
    """The graph divided into what follows from its first inputs alone, so many of them, and the rest.

    Of a step that is what examples and the frozen model give, which runs that see the same have in common; and, from that and all
    other inputs, the losses and gradients.
    """
    nodes = list(graph.graph.nodes)
    places = [node for node in nodes if node.op == "placeholder"]
    of_run = set(places[shared:])
    for node in nodes:
        if of_run.intersection(node.all_input_nodes) and node.op != "output":
            of_run.add(node)
    [output] = graph.graph.find_nodes(op="output")
    early = [node for node in nodes if node not in of_run and node is not output]
    late = [node for node in nodes if node in of_run and node.op != "placeholder"]
    needed = {used for node in (*late, output) for used in node.all_input_nodes}
    crossing = [node for node in early if node in needed]

    def part(inputs: list[Node], body: list[Node], outputs: Any) -> GraphModule:
        new, known = Graph(), {}
        for node in inputs:
            known[node] = new.placeholder(node.name)
        for node in body:
            known[node] = new.node_copy(node, known.__getitem__)
        new.output(map_arg(outputs, known.__getitem__))
        return GraphModule(graph, new)

    first = part(places[:shared], [node for node in early if node.op != "placeholder"], crossing)
    return first, part([*crossing, *places[shared:]], late, output.args[0])


def name(task: ModelTask, adapters: Adapters, examples: Examples) -> str:
    """By which a process knows a graph that it has traced: the same for what would be traced alike."""
    part = Part(task)
    of_layers = [
        (
            layer,
            type(adapter),
            {k: v for k, v in vars(adapter).items() if v is None or isinstance(v, bool | int | float | str)},
        )
        for layer, adapter in adapters.items()
    ]
    inputs = [*tensors(examples), *part.frozen().values(), *tensors(adapters)]
    drops = max(task.rates) > 0
    return str((type(task), task.model.config, task.config, of_layers, layout(inputs), drops, torch.get_num_threads()))


def key(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """By which what was compiled of a graph is known: the same for what is compiled alike, on processors that are alike."""
    what = graph.code, layout(inputs), torch.get_num_threads(), torch.__version__, PROCESSOR
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

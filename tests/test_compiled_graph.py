"""The graph that engine=compiled compiles, run operation by operation: losses and gradients of autograd's engine, whatever its
inputs hold, in float64."""

import pytest
import torch
from models import same, stack
from test_models import CASES
from torch.utils.flop_counter import FlopCounterMode

from runner.training.compiled import choice, graph

FURTHER = [
    ("language_model", "llama", "all-linear", "full"),
    ("language_model", "llama", "all-linear", "lora", "init=pissa"),  # an offset
    ("language_model", "llama", "all-linear", "dora", "adapter.norm_gradient=true"),
    ("classification", "roberta", "all-linear", "lora", "adapter.dropout=0.2"),
    ("language_model", "llama", "all-linear", "lora", "task.accumulation=2", "adapter.dropout=0.2"),
]
GROUP = slice(1, 3)


@pytest.mark.parametrize("case", [*CASES[::2], *FURTHER], ids="-".join)  # of the models every second
def test_a_graph_gives_what_autograd_gives_for_other_runs_and_examples(case, tmp_path):
    """Traced for the first two runs at step 0, run for the last two at step 3, after every parameter has moved."""
    task, kind, targets, adapter, *more = case
    _, task, adapters = stack(tmp_path, task, kind, targets, *more, adapter=adapter)
    first, last = ({name: a.of(runs) for name, a in adapters.items()} for runs in (slice(0, 2), GROUP))

    def seen(step: int, runs: slice):
        task.to_step(step)
        examples, dropout = task.seen(0), task.dropout(0)
        each = len(examples) // 3
        return examples.each(lambda t: t[each * runs.start : each * runs.stop]), dropout and dropout.of(runs)

    examples, dropout = seen(0, slice(0, 2))
    task.of_part(first, examples, dropout)  # tells the shapes
    factors = [torch.ones(shape) for shape in dropout.shapes] if dropout else []
    of_frozen, of_trained = graph.split(
        graph.trace(task, first, examples, factors), len(graph.tensors(examples)) + len(frozen(task))
    )
    with torch.no_grad():
        for a in adapters.values():
            for p in a.parameters.values():
                p.mul_(1.5)
    examples, dropout = seen(3, GROUP)
    losses, gradients = task.of_part(last, examples, dropout)
    again = seen(3, GROUP)[1]
    given = {
        "examples": graph.tensors(examples),
        "weights": frozen(task),
        "adapters": graph.tensors(last),
        "masks": [again.factors(f.shape) for f in factors] if again else [],
    }

    def run(examples, weights, adapters, masks):
        return of_trained(*of_frozen(*examples, *weights), *adapters, *masks)

    for ours, theirs in zip(run(**given), (losses, *gradients), strict=True):
        same(ours, theirs)
    # Controls: another run's adapters, other examples, other weights and other masks each give something else.
    others = {
        "examples": graph.tensors(seen(0, GROUP)[0]),
        "weights": [1.1 * w if w.is_floating_point() else w for w in frozen(task)],
        "adapters": graph.tensors(first),
        "masks": [f.flip(0) for f in given["masks"]],
    }
    for name, other in others.items():
        if other:
            assert not torch.allclose(run(**given | {name: other})[0], losses, rtol=1e-6), name


def frozen(task) -> list[torch.Tensor]:
    return list(graph.Part(task).frozen().values())


def test_the_key_tells_graphs_sizes_and_threads_apart(monkeypatch):
    module = torch.fx.symbolic_trace(lambda x: x + 1)
    known = {graph.key(module, [torch.ones(2)])}
    known |= {graph.key(torch.fx.symbolic_trace(lambda x: x * 2), [torch.ones(2)])}
    known |= {graph.key(module, [torch.ones(3)]), graph.key(module, [torch.ones(2).double()])}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    known |= {graph.key(module, [torch.ones(2)])}
    monkeypatch.setattr(graph, "PROCESSOR", "another")
    known |= {graph.key(module, [torch.ones(2)])}
    assert len(known) == 6


def test_products_are_those_of_all_frozen_layers_forward_and_back(tmp_path, monkeypatch):
    """On a machine that makes one multiplication or addition a second: what a step takes at least, compiled or not."""
    _, task, _ = stack(tmp_path, "language_model", "small gpt2")

    def timed(work):
        with FlopCounterMode(display=False) as counter:
            result = work()
        return counter.get_total_flops(), result

    monkeypatch.setattr(choice, "_timed", timed)
    examples, weights = task.seen(0), dict(task.model.named_parameters())
    entries = sum(
        p.numel() for name, p in weights.items() if p.dim() == 2 and "wpe" not in name
    )  # GPT-2's head is its wte
    expected = 2 * 2 * examples.tokens.numel() * entries
    assert choice.products(task, examples) == expected != choice.products(task, task.held_out)

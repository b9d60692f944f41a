"""The graph that engine=compiled compiles, run operation by operation: losses and gradients of autograd's engine, whatever its
inputs hold, in float64."""

import pytest
import torch
from models import same, stack
from test_models import CASES

from runner.training.compiled import graph

FURTHER = [
    ("language_model", "llama", "all-linear", "full"),
    ("language_model", "llama", "all-linear", "lora", "init=pissa"),  # an offset
    ("language_model", "llama", "all-linear", "dora", "adapter.norm_gradient=true"),
    ("classification", "roberta", "all-linear", "lora", "adapter.dropout=0.2"),
    ("language_model", "llama", "all-linear", "lora", "task.accumulation=2", "adapter.dropout=0.2"),
]
GROUP = slice(1, 3)


@pytest.mark.parametrize("case", [*CASES, *FURTHER], ids="-".join)
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

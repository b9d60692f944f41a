"""Whether runs can be folded into the batch of a model: whether it treats the sequences of a batch each on its own."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from runner.adapters import LoRA
from runner.config import ConfigError
from runner.core.rng import generator, normal
from runner.tasks.models import checkpoints, hooks, spec

MIXING_TOLERANCE = (
    0.1  # share of the adapters' effect on a loss that a batch may change; rounding stays below, in bfloat16 too
)


@torch.no_grad()
def check_folding(
    model: str,
    modules: Mapping[str, nn.Module],
    rows: Tensor,
    dtype: torch.dtype,
    loss: Callable[[Tensor], Tensor],
) -> None:
    """Raise ConfigError unless two runs, with adapters drawn at random, have in one batch the losses that each has alone.

    Layers that normalize over the batch, say, would mix the runs. What they mix is of the size of what the adapters do;
    rounding is not. `rows`: two examples; `loss`: of such examples, under the model as it is.
    """
    g, device = generator(0, "folding"), rows.device
    shapes = {name: spec.weight(module).shape for name, module in modules.items()}
    drawn = {
        name: [
            (normal(1, n_in, variance=1 / n_in, generator=g), normal(n_out, 1, variance=1, generator=g)) for _ in rows
        ]
        for name, (n_out, n_in) in shapes.items()
    }

    def losses(*runs: int) -> Tensor:
        adapters = {}
        for name, factors in drawn.items():
            A, B = (torch.stack([factors[k][side] for k in runs]).to(device, dtype) for side in (0, 1))
            adapters[name] = LoRA(A, B, torch.ones(len(runs), device=device, dtype=dtype))
        with hooks.attached(modules, adapters):
            return loss(rows[list(runs)]).double()

    try:
        frozen = loss(rows).double()
    except (LookupError, TypeError, AttributeError) as error:
        if not checkpoints.raised_by_the_model(error):
            raise
        raise checkpoints.unusable(model, spec.configuration(model).to_dict(), error) from error
    alone = torch.cat([losses(0), losses(1)])
    if not (alone.isfinite() & frozen.isfinite()).all():
        when = " with adapters tried at random" if frozen.isfinite().all() else "; its weights are damaged"
        raise ConfigError(f"task.model={model}: its loss is not a number{when}")
    reason = "two sequences lose something else in one batch than apart"
    try:
        together = losses(0, 1)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # tokens of several runs that do not divide by their number
        together = torch.full_like(alone, torch.inf)
        reason = f"a layer sees other rows than the batch has ({error})"
    if not ((together - alone).abs() <= MIXING_TOLERANCE * (alone - frozen).abs()).all():
        raise ConfigError(
            f"task.model={model}: its layers mix the sequences of a batch, so runs cannot be stacked in it: {reason}; choose "
            "another model, or other task.targets"
        )

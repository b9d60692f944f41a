"""Statistics for inits that look at data: of the inputs of a frozen model's layers, and the gradients of their weights."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runner.inits import Calibration
from runner.tasks.models.text import Examples


def calibrate(
    modules: Mapping[str, nn.Module],
    per_example: Callable[[Examples, Tensor], dict[str, Tensor]],
    examples: Examples,
    at_once: int,
    needs: Collection[str],
) -> dict[str, Calibration]:
    """Module -> its statistics over all the examples, on the CPU, float64. Padding is left out, and so are modules that were not
    called."""
    sums: dict[str, list[Any]] = {}
    gradients = "gradient" in needs
    rows: Tensor

    def see(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            if examples.mask is not None and x.shape[:-1] == examples.mask[rows].shape:
                x = x[examples.mask[rows].bool()]
            x = x.flatten(0, -2).float() if x.dtype.itemsize < 4 else x.flatten(0, -2)
            count, total, squares = sums.get(name, (0, 0.0, 0.0))
            if "inputs" in needs:
                total, squares = total + x.sum(0).double().cpu(), squares + (x.T @ x).double().cpu()
            sums[name] = [count + len(x), total, squares]

        return hook

    handles = [module.register_forward_pre_hook(see(name)) for name, module in modules.items()]
    weights = [module.weight.requires_grad_(gradients) for module in modules.values()]
    G: list[Any] = [0.0] * len(weights)
    try:
        with torch.set_grad_enabled(gradients):
            for rows in torch.arange(len(examples), device=examples.tokens.device).split(at_once):
                loss = per_example(examples, rows)["loss"].sum() / len(examples)
                if gradients:
                    new = torch.autograd.grad(loss, weights, allow_unused=True)
                    G = [a if g is None else a + g.double().cpu() for a, g in zip(G, new, strict=True)]
    finally:
        for handle in handles:
            handle.remove()
        for weight in weights:
            weight.requires_grad_(False)
    result = {}
    for (name, module), g in zip(modules.items(), G, strict=True):
        if name not in sums:
            continue
        count, total, squares = sums[name]
        inputs = (total / count, squares / count) if "inputs" in needs else (None, None)
        gradient = (g if isinstance(module, nn.Linear) else g.T) if gradients else None  # a Conv1D keeps its transpose
        result[name] = Calibration(*inputs, gradient)
    return result

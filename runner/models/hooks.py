"""Forward hooks: how stacked adapters get into a model that nobody rewrites, and the inputs of its layers out of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from runner.adapters import Adapter


@contextmanager
def attached(modules: Mapping[str, nn.Module], adapters: Mapping[str, Adapter]) -> Iterator[None]:
    """Within: each module's output is its adapter's, for K runs folded into the batch dimension."""

    def hook(adapter: Adapter) -> Callable[..., Tensor]:
        return lambda module, inputs, output: adapter.folded(inputs[0], output)

    handles = [module.register_forward_hook(hook(adapters[name])) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def inputs(modules: Mapping[str, nn.Module], forward: Callable[[], object]) -> dict[str, Tensor]:
    """Module -> its input (…, n_in) in one forward pass; modules that take no part in it are left out."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen[name] = given[0].detach().clone()  # what follows may be computed in its memory

        return see

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return seen

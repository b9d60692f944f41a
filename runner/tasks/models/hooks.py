"""Forward hooks: how stacked adapters get into a model that nobody rewrites, and what its layers read and say out of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor, nn

from runner.adapters import Adapter, Factored
from runner.core.rng import WORD, generator, key, philox


@contextmanager
def attached(
    modules: Mapping[str, nn.Module],
    adapters: Mapping[str, Adapter],
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """Within: each module's output is its adapter's, for K runs folded into the batch dimension."""

    def hook(adapter: Adapter) -> Callable[..., Tensor]:
        drops = dropout is not None and isinstance(adapter, Factored)
        return lambda module, inputs, output: adapter.folded(
            dropout(inputs[0]) if drops else inputs[0], output, module.bias
        )

    handles = [module.register_forward_hook(hook(adapters[name])) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def calls(
    modules: Mapping[str, nn.Module], forward: Callable[[], object], some: Callable[[Tensor], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> what `some` copies of its input (…, n_in) and output (…, n_out) in one forward pass, whose tensors may be
    overwritten; modules that take no part in it are left out."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = some(inputs[0]), some(output)

        return see

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return seen


class Dropout:
    """x ← x · m / (1 - p) with m ~ Bernoulli(1 - p), of what LoRA's factors read (Hu et al. 2021), for K runs with a p each.

    A run draws from a stream of its own for each step and pass, layer after layer: the same masks in every stack, and no
    state to keep between steps. `shapes`: of what was dropped from, in this order.
    """

    def __init__(self, seeds: Sequence[int], rates: Sequence[float], step: int, part: int):
        self.streams = [generator(seed, f"dropout/{step}/{part}") for seed in seeds]
        self.rates = torch.tensor(rates)[:, None]
        self.shapes: list[torch.Size] = []

    def of(self, runs: slice) -> "Dropout":
        """That of some of the runs, from where their streams are."""
        some = copy(self)
        some.streams, some.rates, some.shapes = self.streams[runs], self.rates[runs], []
        return some

    def factors(self, shape: torch.Size) -> Tensor:
        """m / (1 - p), float32, for the next x (K·b, …, n_in)."""
        chances = self.chances(shape.numel() // len(self.rates))
        return ((chances >= self.rates) / (1 - self.rates)).view(shape)

    def chances(self, count: int) -> Tensor:
        """(K, count) uniform in [0, 1), float32."""
        return torch.stack([torch.rand(count, generator=stream) for stream in self.streams])

    def __call__(self, x: Tensor) -> Tensor:
        self.shapes.append(x.shape)
        return x * self.factors(x.shape).to(x)


class DropoutOnDevice(Dropout):
    """The same on a GPU, where numbers are drawn: a function of the run's key, the step (1,), part and layer, and the place, so
    that it can be recorded and replayed. They are others than the CPU's."""

    def __init__(self, keys: Tensor, rates: Tensor, step: Tensor, part: int):
        self.keys, self.rates, self.step, self.part = keys, rates, step, part
        self.shapes: list[torch.Size] = []

    @staticmethod
    def keys_of(seeds: Sequence[int]) -> Tensor:
        """(2, K, 1), words of each run's key."""
        keys = torch.tensor([key(seed, "dropout") for seed in seeds])[:, None]
        return torch.stack([keys & WORD, keys >> 32 & WORD])

    def chances(self, count: int) -> Tensor:
        places = torch.arange(-(-count // 4), device=self.step.device)
        words = philox((places, len(self.shapes), self.step, self.part), tuple(self.keys))
        return (torch.cat(words, dim=1)[:, :count] >> 8).float() / 2**24

"""Where K runs start: from their configurations to stacked adapters on the layers of a task, and heads beside them."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.adapters import Adapter, Full
from runner.config import Config
from runner.config.registry import ADAPTERS, INITS
from runner.core.machine import one_thread
from runner.core.rng import generator, normal
from runner.inits import Calibration, Layer, Start
from runner.tasks.base import Task
from runner.tasks.finetuning import HEAD_STD
from runner.tasks.models import peft
from runner.tasks.toy import ToyTask


def build_adapters(
    configs: Sequence[Config], task: Task, device: torch.device, dtype: torch.dtype
) -> dict[str, Adapter]:
    """K freshly initialized adapters for every layer, each run's drawn from its own `init` stream, layer after layer; then
    the heads, drawn from its `head` stream. An init that replaces the frozen weights does so in the task."""
    starts = draw(configs, task)
    replaced = {layer: of_layer[0].base for layer, of_layer in starts.items() if of_layer[0].base is not None}
    if replaced:
        task.replace(replaced)
    folders = {c.adapter.start_from for c in configs if c.adapter.start_from is not None}
    tensors = {folder: peft.read(Path(folder)) for folder in folders}
    adapters: dict[str, Adapter] = {}
    shapes = {layer: tuple(W0.shape) for layer, W0 in task.layers.items()}
    shared = ADAPTERS[configs[0].adapter.name].shared(configs, shapes, tensors, device, dtype)
    for layer, W0 in task.layers.items():
        adapters[layer] = _stacked(configs, layer, W0.to(device), starts[layer], shared, dtype)
    streams = [generator(c.seed, "head") for c in configs]
    for layer, (n_out, n_in, has_bias) in task.heads.items():
        W = torch.stack([normal(n_out, n_in, variance=HEAD_STD**2, generator=stream) for stream in streams])
        b = torch.zeros(len(configs), n_out, device=device, dtype=dtype) if has_bias else None
        adapters[layer] = Full(W.to(device, dtype), b)
    for k, c in enumerate(configs):
        if c.adapter.start_from is not None:
            load(adapters, k, tensors[c.adapter.start_from])
    return adapters


@torch.no_grad()
def load(adapters: dict[str, Adapter], k: int, tensors: dict[str, Tensor]) -> None:
    """Let run k start from the tensors of a PEFT folder; heads that it does not hold are as they were drawn."""
    for layer, adapter in adapters.items():
        for part, p in adapter.parameters.items():
            found = tensors.get(f"{peft.PREFIX}{layer}.{adapter.peft_names[part]}")
            if found is not None:
                p[k] = found


def weights(adapters: dict[str, Adapter], k: int) -> dict[str, np.ndarray]:
    """What run k trained, and what of it is frozen, by layer and name: factors, offsets A0 and B0, heads, VeRA's pair."""
    tensors = {}
    for layer, adapter in adapters.items():
        tensors |= {f"{layer}.{name}": p[k] for name, p in adapter.parameters.items()}
        tensors |= adapter.frozen_factors(layer, k)
    return {name: t.detach().cpu().numpy().copy() for name, t in tensors.items()}


def draw(configs: Sequence[Config], task: Task) -> dict[str, list[Start]]:
    """Layer -> the start of each run, times its `init.scale`. What runs have in common is computed once."""
    statistics: dict[int, dict[str, Calibration]] = {}
    for examples in {c.init.examples for c in configs if INITS[c.init.name].needs}:
        asking = [INITS[c.init.name] for c in configs if getattr(c.init, "examples", None) == examples]
        statistics[examples] = task.calibrate(examples, {init.needs for init in asking})
    of_run = [statistics[c.init.examples] if INITS[c.init.name].needs else {} for c in configs]
    streams = [generator(c.seed, "init") for c in configs]
    starts: dict[str, list[Start]] = {}
    # A toy's run is the same on any number of threads and, as far as decompositions rounded once allow, on any machine.
    toy = isinstance(task, ToyTask)
    with one_thread() if toy else nullcontext():
        spread: dict[str, dict[str, int]] = {}
        ranks = [_ranks(c, seen, spread) for c, seen in zip(configs, of_run, strict=True)]
        for name, W0 in task.layers.items():
            W0 = W0.to(torch.float64 if toy else torch.promote_types(W0.dtype, torch.float32)).cpu()
            caches: dict[int | None, dict[Any, Any]] = {}  # by the number of examples
            starts[name] = []
            for c, seen, rank, stream in zip(configs, of_run, ranks, streams, strict=True):
                cache = caches.setdefault(getattr(c.init, "examples", None), {})
                scale = ADAPTERS[c.adapter.name].scale_of(c.adapter)
                layer = Layer(W0, rank.get(name, c.adapter.rank), scale, stream, seen.get(name), cache)
                if c.adapter.start_from is None:
                    start = INITS[c.init.name].draw(layer, **c.init.options())
                else:
                    start = _blank(c, layer)
                if c.init.scale != 1:
                    start = start._replace(**{part: c.init.scale * t for part, t in start.drawn.items()})
                starts[name].append(start)
    return starts


def count(adapters: dict[str, Adapter]) -> list[int]:
    """How many numbers each of the K runs trains."""
    sizes = torch.tensor([p[0].numel() for adapter in adapters.values() for p in adapter.parameters.values()])
    return (sizes[:, None] * trained(adapters)).sum(0).tolist()


def trained(adapters: dict[str, Adapter]) -> Tensor:
    """(parameters, K): whether each run trains it."""
    return torch.tensor(
        [
            [not adapter.frozen or name not in adapter.frozen[k] for k in range(len(p))]
            for adapter in adapters.values()
            for name, p in adapter.parameters.items()
        ]
    )


def _blank(config: Config, layer: Layer) -> Start:
    """Room for what a PEFT folder holds."""
    n_out, n_in = layer.W0.shape
    if ADAPTERS[config.adapter.name].diagonal:
        return Start(torch.zeros(layer.rank), torch.zeros(n_out))
    return Start(torch.zeros(layer.rank, n_in), torch.zeros(n_out, layer.rank))


def _ranks(config: Config, statistics: dict[str, Calibration], known: dict[str, dict[str, int]]) -> dict[str, int]:
    """Layer -> rank, where layers have ranks of their own: in a PEFT folder, or from an init that spreads them; {} otherwise."""
    if config.adapter.start_from is not None:
        return peft.ranks(Path(config.adapter.start_from))
    spread = INITS[config.init.name].ranks
    if spread is None:
        return {}
    key = str(vars(config.init))
    if key not in known:
        known[key] = spread(statistics, config.adapter.rank, config.init)
    return known[key]


def _stacked(
    configs: Sequence[Config], layer: str, W0: Tensor, starts: list[Start], shared: Any, dtype: torch.dtype
) -> Adapter:
    """The adapter of K runs at one layer."""
    of_runs = [start.drawn.values() for start in starts]
    drawn = [torch.stack([t.to(dtype) for t in part]).to(W0.device) for part in zip(*of_runs, strict=True)]
    residual = torch.tensor([INITS[c.init.name].residual(c.init) for c in configs], device=W0.device)[:, None, None]
    offset = (drawn[0] * residual, drawn[1] * residual) if residual.any() else None
    stacked = ADAPTERS[configs[0].adapter.name].stack(configs, layer, W0, drawn, offset, shared)
    stacked.frozen = [_frozen(c, stacked, start) for c, start in zip(configs, starts, strict=True)]
    return stacked


def _frozen(config: Config, adapter: Adapter, start: Start) -> tuple[str, ...]:
    """What a run does not train of a layer: what its init freezes, and what its configuration does."""
    side = getattr(config.adapter, "freeze", None)
    chosen = [name for name in INITS[config.init.name].parameters if side and adapter.sides[name] == side]
    return tuple(dict.fromkeys((*start.frozen, *chosen)))

"""Where K runs start: from their configurations to stacked adapters on the layers of a task, and heads beside them."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.adapters import ADAPTERS, SCALES, Adapter, Dense, DoRA, LoRA, VeRA
from runner.adapters.vera import projections
from runner.inits import INITS, Shown, Site, Start
from runner.machine import one_thread
from runner.models import peft
from runner.rng import generator, normal
from runner.schema import Config, ConfigError
from runner.tasks import Task
from runner.tasks.base import ToyTask
from runner.tasks.models import HEAD_STD


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
    held = {folder: peft.read(Path(folder)) for folder in folders}
    adapters: dict[str, Adapter] = {}
    pair = _projections(configs, task, held, device, dtype) if ADAPTERS[configs[0].adapter.name] is VeRA else None
    for layer, W0 in task.layers.items():
        adapter = _stacked(configs, layer, W0, starts[layer], pair, device, dtype)
        adapter.frozen = [start.frozen for start in starts[layer]]
        adapters[layer] = adapter
    streams = [generator(c.seed, "head") for c in configs]
    for layer, (n_out, n_in, has_bias) in task.heads.items():
        W = torch.stack([normal(n_out, n_in, variance=HEAD_STD**2, generator=stream) for stream in streams])
        b = torch.zeros(len(configs), n_out, device=device, dtype=dtype) if has_bias else None
        adapters[layer] = Dense(W.to(device, dtype), b)
    for k, c in enumerate(configs):
        if c.adapter.start_from is not None:
            load(adapters, k, held[c.adapter.start_from])
    return adapters


@torch.no_grad()
def load(adapters: dict[str, Adapter], k: int, tensors: dict[str, Tensor]) -> None:
    """Let run k start from the tensors of a PEFT folder; heads that it does not hold are as they were drawn."""
    for layer, adapter in adapters.items():
        names = peft.OF_HEAD if isinstance(adapter, Dense) else peft.NAMES
        for part, p in adapter.parameters.items():
            found = tensors.get(f"{peft.PREFIX}{layer}.{names[part]}")
            if found is not None:
                p[k] = found


def weights(adapters: dict[str, Adapter], k: int) -> dict[str, np.ndarray]:
    """What run k trained, and what of it is frozen, by layer and name: factors, offsets A0 and B0, heads, VeRA's pair."""
    kept = {}
    for layer, adapter in adapters.items():
        kept |= {f"{layer}.{name}": p[k] for name, p in adapter.parameters.items()}
        if isinstance(adapter, LoRA) and adapter.offset is not None and adapter.offset[0][k].any():
            kept |= {f"{layer}.{name}": factor[k] for name, factor in zip(("A0", "B0"), adapter.offset, strict=True)}
        if isinstance(adapter, VeRA):
            kept |= {f"projection.{name}": factor[k] for name, factor in zip("AB", adapter.pair, strict=True)}
    return {name: t.detach().cpu().numpy().copy() for name, t in kept.items()}


def draw(configs: Sequence[Config], task: Task) -> dict[str, list[Start]]:
    """Layer -> the start of each run, times its `init.scale`. What runs have in common is computed once."""
    shown: dict[int, dict[str, Shown]] = {}
    for examples in {c.init.examples for c in configs if INITS[c.init.name].needs}:
        asking = [INITS[c.init.name] for c in configs if getattr(c.init, "examples", None) == examples]
        shown[examples] = task.show(examples, {init.needs for init in asking})
    of_run = [shown[c.init.examples] if INITS[c.init.name].needs else {} for c in configs]
    streams = [generator(c.seed, "init") for c in configs]
    starts: dict[str, list[Start]] = {}
    # A toy's run is the same on any number of threads.
    with one_thread() if isinstance(task, ToyTask) else nullcontext():
        spread: dict[str, dict[str, int]] = {}
        ranks = [_ranks(c, seen, spread) for c, seen in zip(configs, of_run, strict=True)]
        for layer, W0 in task.layers.items():
            W0 = (W0 if W0.dtype == torch.float64 else W0.float()).cpu()
            kept: dict[int | None, dict[Any, Any]] = {}  # by the examples that were shown
            starts[layer] = []
            for c, seen, rank, stream in zip(configs, of_run, ranks, streams, strict=True):
                what = kept.setdefault(getattr(c.init, "examples", None), {})
                site = Site(W0, rank.get(layer, c.adapter.rank), _scale(c), stream, seen.get(layer), what)
                if c.adapter.start_from is None:
                    start = INITS[c.init.name].draw(site, **c.init.options())
                else:
                    start = _blank(c, site)
                starts[layer].append(start._replace(A=c.init.scale * start.A, B=c.init.scale * start.B))
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


def _scale(config: Config) -> float:
    rule = SCALES.get(config.adapter.name)
    return rule(config.adapter.alpha, config.adapter.rank) if rule else 1.0


def _blank(config: Config, at: Site) -> Start:
    """Room for what a PEFT folder holds."""
    n_out, n_in = at.W0.shape
    if config.adapter.name == "vera":
        return Start(torch.zeros(at.rank), torch.zeros(n_out))
    return Start(torch.zeros(at.rank, n_in), torch.zeros(n_out, at.rank))


def _ranks(config: Config, shown: dict[str, Shown], known: dict[str, dict[str, int]]) -> dict[str, int]:
    """Layer -> rank, where layers have ranks of their own: in a PEFT folder, or from an init that spreads them; {} otherwise."""
    if config.adapter.start_from is not None:
        return peft.ranks(Path(config.adapter.start_from))
    spread = INITS[config.init.name].ranks
    if spread is None:
        return {}
    key = str(vars(config.init))
    if key not in known:
        known[key] = spread(shown, config.adapter.rank, config.init)
    return known[key]


def _projections(
    configs: Sequence[Config],
    task: Task,
    held: Mapping[str, Mapping[str, Tensor]],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """VeRA's frozen pair of each run, as large as the largest layer: drawn, or as the folder that a run starts from has it."""
    n_out, n_in = (max(W0.shape[side] for W0 in task.layers.values()) for side in (0, 1))
    keys = [c.seed if c.adapter.projection_key is None else c.adapter.projection_key for c in configs]
    drawn = {key: projections(key, configs[0].adapter.rank, n_out, n_in) for key in set(keys)}
    in_folder = [held.get(c.adapter.start_from, {}) for c in configs]

    def stacked(side: int, name: str) -> Tensor:
        of_runs = [found.get(name, drawn[key][side]) for found, key in zip(in_folder, keys, strict=True)]
        return torch.stack(of_runs).to(device, dtype)

    return stacked(0, peft.PROJECTIONS["A"]), stacked(1, peft.PROJECTIONS["B"])


def _stacked(
    configs: Sequence[Config],
    layer: str,
    W0: Tensor,
    starts: list[Start],
    pair: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> LoRA | VeRA:
    """The adapter of K runs at one layer."""
    kind = ADAPTERS[configs[0].adapter.name]
    A, B = (torch.stack([start[side].to(dtype) for start in starts]).to(device) for side in (0, 1))
    if kind is VeRA:
        return VeRA(A, B, pair, W0.shape[1])
    scale = torch.tensor([_scale(c) for c in configs], dtype=dtype, device=device)
    residual = torch.tensor([INITS[c.init.name].residual(c.init) for c in configs], device=device)[:, None, None]
    offset = (A * residual, B * residual) if residual.any() else None
    if kind is not DoRA:
        return kind(A, B, scale, offset)
    adapter = DoRA(A, B, scale, offset, W0.to(device), configs[0].adapter.norm_gradient)
    if not adapter.m.all():
        raise ConfigError(
            f"adapter=dora: a row of the weight of layer {layer} is zero, which has no direction; choose another adapter or task"
        )
    return adapter

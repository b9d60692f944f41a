"""From a list of configurations to what is left to train: unfinished runs, grouped into stacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from runner.config import Config, ConfigError
from runner.config.identity import run_id
from runner.config.registry import ADAPTERS, TASKS
from runner.config.resources import device_of, resolve_engine
from runner.store import packs
from runner.store.outcome import DamagedRun
from runner.store.runs import Store
from runner.tasks.toy import ToyTask
from runner.training.checkpoint import forget, resumable
from runner.training.log import count_rows
from runner.training.measure import sharpness
from runner.training.measure.layer import columns_of
from runner.training.stack import stack_key

ITEM_SIZE = {"float32": 4, "float64": 8}
CACHE = 12 * 2**20  # bytes


@dataclass(frozen=True)
class Plan:
    """`done`: runs that need no training, with their summaries. `stacks`: the rest, in training order.

    `damaged`: one sentence for each run directory that cannot be trusted, and is therefore among the rest.
    """

    done: list[tuple[Config, dict[str, Any]]]
    stacks: list[list[Config]]
    damaged: list[str]


def plan(configs: Sequence[Config], store: Store) -> Plan:
    """Drop duplicates and what the store already has; stack the rest: what has a checkpoint, then the most expensive."""
    unique = {(config.experiment, run_id(config)): config for config in configs}
    finished, todo, damaged = [], [], []
    for config in unique.values():
        try:
            summary = done(config, store)
        except DamagedRun as error:
            damaged.append(str(error))
            summary = None
        except packs.Unreadable as error:
            raise unreadable(config, error) from error
        if summary is None:
            todo.append(config)
        else:
            finished.append((config, summary))
    forget([config for config, _ in finished])
    return Plan(finished, arrange(todo), damaged)


def unreadable(config: Config, error: packs.Unreadable) -> ConfigError:
    return ConfigError(f"outputs={config.outputs}: {error}; mend that, or move it away")


def done(config: Config, store: Store) -> dict[str, Any] | None:
    """The stored summary of a run that needs no training; None for others. Raises DamagedRun and packs.Unreadable.

    With `retrain=missing` a run needs training, too, if it lacks a column that is measured now.
    """
    summary = store.summary(config)
    if summary and config.retrain == "missing" and not set(columns_of(config)) <= store.columns(config):
        return None
    return summary


def arrange(todo: Sequence[Config]) -> list[list[Config]]:
    """Unfinished runs in stacks: those of a checkpoint as they were, then the rest."""
    with_checkpoint = resumable(todo)
    resumed = {id(config) for stack in with_checkpoint for config in stack}
    return with_checkpoint + stacks([config for config in todo if id(config) not in resumed])


def stacks(configs: Sequence[Config]) -> list[list[Config]]:
    """Group runs into stacks: experiment by experiment, the most expensive first, so that the last to finish are short."""
    groups: dict[str, list[Config]] = {}
    for config in configs:
        groups.setdefault(stack_key(config), []).append(config)
    budget = memory_budget(configs[0]) if configs else 0
    split = [stack for group in groups.values() for stack in _split(group, budget)]
    order = {name: place for place, name in enumerate(dict.fromkeys(config.experiment for config in configs))}
    return sorted(split, key=lambda stack: (order[stack[0].experiment], -sum(map(cost, stack))))


def cost(config: Config) -> float:
    """Relative training time of one run."""
    task, kind = TASKS[config.task.name], ADAPTERS[config.adapter.name]
    of_update = task.cost(config.task, kind.multiplied(list(task.shapes(config.task).values())))
    return config.steps * of_update * (1 + sharpness.cost(config.sharpness))


def max_workers(config: Config) -> int:
    """Processes that may train at the same time here: `workers`; auto is one a thread on the CPU, or one a GPU."""
    if config.workers != "auto":
        return config.workers
    return torch.get_num_threads() if device_of(config).type == "cpu" else max(1, gpus(config))


def gpus(config: Config) -> int:
    """How many GPUs of this machine are divided among workers; 0 where one is chosen, or none."""
    device = device_of(config)
    return torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0


def memory_budget(config: Config) -> int:
    """Bytes that a stack may take: `stack.max_bytes`, or the worker's share in a quarter of the device's free memory; elsewhere a
    quarter of what it gets there."""
    if config.stack.max_bytes is not None:
        return config.stack.max_bytes
    if config.executor.memory is not None:
        return int(config.executor.memory * 2**30) // 4
    device, several = device_of(config), gpus(config) if max_workers(config) > 1 else 0
    if device.type == "cpu":
        return psutil.virtual_memory().available // (4 * max_workers(config))
    free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in (range(several) if several else [device]))
    return free // (4 * -(-max_workers(config) // max(1, several)))


def numbers(config: Config, shapes: Sequence[tuple[int, int]]) -> int:
    """How many a run keeps for layers of these shapes, whatever passes through them."""
    kind = ADAPTERS[config.adapter.name]
    of_looks = sharpness.VECTORS * kind.entries(config, shapes) if config.sharpness.every else 0
    return kind.numbers(config, shapes) + of_looks


def bytes_per_run(config: Config) -> int:
    """What one more run adds to a stack: what trains, gradients, optimizer and their copies, the log, and activations."""
    task = TASKS[config.task.name]
    shapes = task.shapes(config.task)
    trained = numbers(config, list(shapes.values()))
    activations = task.activations(config, resolve_engine(config) == "fused")
    columns = len(task.evals) + len(sharpness.COLUMNS) * bool(config.sharpness.every)
    columns += len(columns_of(config)) * (1 + len(shapes) * config.log.layers)
    log = 8 * (columns * count_rows(config) + config.steps + 1)
    return int((trained + activations) * ITEM_SIZE[config.dtype]) + log


def _split(group: list[Config], budget: int) -> list[list[Config]]:
    """Stacks of near-equal size within the memory budget, and no larger than pays.

    On the CPU autograd's loop on a toy is bound by memory traffic: a layer output (K, N, n_out) that stays in the
    last-level cache is up to twice as fast per run.
    """
    config, task = group[0], TASKS[group[0].task.name]
    most = max(1, budget // bytes_per_run(config))
    if device_of(config).type == "cpu":
        most = min(most, task.max_stack_size)
        if issubclass(task, ToyTask) and resolve_engine(config) == "autograd":
            most = min(most, max(1, int(CACHE / (task.cost(config.task) * ITEM_SIZE[config.dtype]))))
    count = -(-len(group) // most)
    return [group[i * len(group) // count : (i + 1) * len(group) // count] for i in range(count)]

"""From a list of configurations to what is left to train: unfinished runs, grouped into stacks.

Runs share a stack when they share a frozen base and the loop's shape: everything except what each run brings along as its
own tensor (init, learning rate, schedule, optimizer hyperparameters, alpha).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.config import as_dict, run_id
from runner.schema import Config
from runner.store import DamagedRun, Store

PER_RUN = {"init": None, "optimizer": {"name"}, "adapter": {"name", "rank"}}


@dataclass(frozen=True)
class Plan:
    """`done`: runs that need no training, with their summaries. `stacks`: the rest, in training order.

    `damaged`: one sentence for each run directory that cannot be trusted, and is therefore among the rest.
    """

    done: list[tuple[Config, dict[str, Any]]]
    stacks: list[list[Config]]
    damaged: list[str]


def plan(configs: Sequence[Config], store: Store) -> Plan:
    """Drop duplicates and what the store already has; stack the rest."""
    unique = {(config.experiment, run_id(config)): config for config in configs}
    done, todo, damaged = [], [], []
    for config in unique.values():
        try:
            summary = store.summary(config)
        except DamagedRun as error:
            damaged.append(str(error))
            summary = None
        if summary is None:
            todo.append(config)
        else:
            done.append((config, summary))
    groups: dict[str, list[Config]] = {}
    for config in todo:
        groups.setdefault(stack_key(config), []).append(config)
    return Plan(done, [stack for group in groups.values() for stack in _split(group)], damaged)


def stack_key(config: Config) -> str:
    """Equal for two runs exactly when they can be trained in one stack."""
    fields = as_dict(config)
    del fields["tracker"], fields["stability"]["max_ratio"]
    for group, shared in PER_RUN.items():
        fields[group] = {name: fields[group][name] for name in sorted(shared)} if shared else None
    return json.dumps(fields, sort_keys=True)


def cost(config: Config) -> float:
    """Relative training time of one run: steps × the entries of one layer output."""
    return float(config.steps * config.task.train_points * config.task.layer_shape()[0])


def _split(group: list[Config]) -> list[list[Config]]:
    """Stacks of near-equal size whose layer output (K, N, n_out) stays within `stack.max_bytes`.

    The loop is bound by memory traffic: an output that stays in the last-level cache, and below the size from which the
    C allocator returns memory to the system at every step, is up to twice as fast per run.
    """
    config = group[0]
    bytes_per_run = config.task.train_points * config.task.layer_shape()[0] * (8 if config.dtype == "float64" else 4)
    most = max(1, config.stack.max_bytes // bytes_per_run)
    count = -(-len(group) // most)
    return [group[i * len(group) // count : (i + 1) * len(group) // count] for i in range(count)]

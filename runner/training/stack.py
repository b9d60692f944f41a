"""Which runs may be trained in lockstep: those that share a frozen base and the loop's shape.

They may differ in what each run brings along as its own tensor: init, learning rate, schedule, optimizer hyperparameters, alpha.
"""

import json
from collections.abc import Sequence
from typing import Any

from runner.config import Config, ConfigError
from runner.config.identity import as_dict, defining
from runner.config.registry import INITS, TASKS


def stack_key(config: Config) -> str:
    """Equal for two runs of a sweep when they can be trained in one stack, are kept together, and it pays: a frozen weight of
    its own costs a run a second pair of factors, which its neighbours would have to carry, too."""
    kept = config.experiment, config.checkpoint.minutes
    return json.dumps([kept, _shared(config), INITS[config.init.name].residual(config.init)], sort_keys=True)


def check_stack(configs: Sequence[Config]) -> None:
    """Raise ConfigError, with the field that differs, unless these runs can be trained in one stack."""
    if not configs:
        raise ConfigError("there are no runs to train; give at least one configuration")
    first = _shared(configs[0])
    for config in configs[1:]:
        other = _shared(config)
        for name in dict.fromkeys([*first, *other]):
            if first.get(name) != other.get(name):
                values = (c.init.name if name == "init" else _shared(c).get(name) for c in (config, configs[0]))
                raise ConfigError(
                    "{}={}: cannot be trained in lockstep with {}; train them in stacks of their own, as runner.sweep "
                    "does".format(name, *values)
                )


def _shared(config: Config) -> dict[str, Any]:
    fields = {name: value for name, value, field in defining(config) if not field.metadata.get("per_run")}
    fields = {name: value for name, value in fields.items() if not name.startswith("init.")}
    if TASKS[config.task.name].seeds_share_base:
        del fields["seed"]
    init = INITS[config.init.name]
    fields["init"] = (
        as_dict(config.init) if init.replaces or init.ranks else None
    )  # other base weights or ranks are for all
    return fields

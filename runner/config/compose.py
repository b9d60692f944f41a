"""From what Hydra composed to a checked, plain `Config`.

A wrong type or an unknown key fails while Hydra composes, what types cannot say is checked by `checks`: all of it before
anything is trained.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.checks import check_fields, validate
from runner.config.errors import explain, unknown_key
from runner.config.identity import with_values
from runner.config.options import ConfigError
from runner.config.registry import GROUPS, TASKS
from runner.config.schema import Config

CONF = Path(__file__).resolve().parent.parent.parent / "conf"


def choices(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """What can be chosen in a group: its files, here and in further configuration folders. A part may have several."""
    return sorted({path.stem for folder in (CONF, *folders) for path in (folder / group).glob("*.yaml")})


def register() -> None:
    """Put the schema where the YAML files' defaults lists find it: `/schema/<group>: <name>`; and make `of_task` known."""
    OmegaConf.register_new_resolver("of_task", _of_task, replace=True)
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    for group, parts in GROUPS.items():
        for name, options in parts.options.items():
            store.store(group=f"schema/{group}", name=name, node=options(name=name))


def _of_task(name: str, otherwise: Any, *, _root_: DictConfig) -> Any:
    """`${of_task:rank,4}` in a YAML file: what the chosen task says under this name, or the other value where it says nothing."""
    return getattr(TASKS.get(OmegaConf.select(_root_, "task.name")), name, otherwise)


def from_hydra(cfg: DictConfig) -> Config:
    """The composed configuration as a plain `Config`, checked and resolved. Raises ConfigError."""
    return checked(plain(cfg))


def checked(config: Config) -> Config:
    """The configuration with what its checkpoint knows filled in, once all of it can be run. Raises ConfigError."""
    check_fields(config)
    if config.task.name in TASKS:
        config = with_values(config, {"task": TASKS[config.task.name].resolve(config.task)})
    validate(config)
    return config


def plain(cfg: DictConfig) -> Config:
    """The composed configuration as a plain `Config` of known fields that all have values. Raises ConfigError."""
    if unknown := sorted(_unknown_keys(cfg)):
        # `+key=value` adds keys behind the schema's back; accepting one would mean ignoring what the user asked for.
        raise ConfigError(unknown_key(unknown[0], OmegaConf.select(cfg, unknown[0].rpartition(".")[0]) or cfg))
    if missing := sorted(_missing(cfg)):
        raise ConfigError(f"{missing[0]}: has no value; set it on the command line, {missing[0]}=…")
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    for group, parts in GROUPS.items():
        name, chosen = getattr(config, group).name, type(getattr(config, group))
        if name in parts and parts.options[name] is not chosen:
            raise ConfigError(f"{group}.name={name}: the fields of another {group} are in place; use {group}={name}")
    return config


def _unknown_keys(cfg: DictConfig) -> set[str]:
    """Dotted names of keys that no field of the schema stands for."""
    return {f"{prefix}{key}" for prefix, node, fields in _nodes(cfg) for key in node if key not in fields}


def _missing(cfg: DictConfig) -> set[str]:
    """Dotted names of fields without a value (`???`) or without a key."""
    return {
        f"{prefix}{name}"
        for prefix, node, fields in _nodes(cfg)
        for name in fields
        if name not in node.keys() or node._get_node(name)._value() == "???"
    }


def _nodes(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig, set[str]]]:
    """(prefix, node, names of its schema's fields) of every node that has a schema."""
    kind = OmegaConf.get_type(cfg)
    if dataclasses.is_dataclass(kind):
        yield prefix, cfg, {field.name for field in dataclasses.fields(kind)}
        for key in cfg:
            if isinstance(node := cfg._get_node(key), DictConfig) and not node._is_none() and not node._is_missing():
                yield from _nodes(node, f"{prefix}{key}.")

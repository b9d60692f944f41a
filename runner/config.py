"""From what Hydra composed to a checked, plain `Config`, and the identity of a run.

Types live in `runner.schema`: a wrong type or an unknown key fails while Hydra composes. What types cannot say is
checked by `runner.checks`. Both happen before anything is trained.
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.checks import validate
from runner.inits import INITS
from runner.schema import (
    AdamWConfig,
    ClassificationConfig,
    Config,
    ConfigError,
    CorDAConfig,
    DoRAConfig,
    ETFConfig,
    EVAConfig,
    FeatureRegressionConfig,
    GaussianABConfig,
    InitConfig,
    LanguageModelConfig,
    LinearConfig,
    LoftQConfig,
    LoRAConfig,
    LoRAGAConfig,
    LoRAOneConfig,
    SGDConfig,
    SignSGDConfig,
    SineConfig,
    TeacherStudentConfig,
    TrackerConfig,
    VeraB0Config,
    VeRAConfig,
    VeraD0Config,
    WandbConfig,
)
from runner.tasks import TASKS

CONF = Path(__file__).resolve().parent.parent / "conf"
IDENTITY_VERSION = 4  # raise it when the same configuration would produce other numbers than before
# Where and how a run is kept, not what is computed.
NOT_IDENTITY = ("experiment", "outputs", "bases", "tracker", "stack", "workers", "checkpoint")

SCHEMAS = {
    "task": {
        "teacher_student": TeacherStudentConfig,
        "feature_regression": FeatureRegressionConfig,
        "sine": SineConfig,
        "linear": LinearConfig,
        "language_model": LanguageModelConfig,
        "classification": ClassificationConfig,
    },
    "adapter": {"lora": LoRAConfig, "rslora": LoRAConfig, "dora": DoRAConfig, "vera": VeRAConfig},
    "init": dict.fromkeys(INITS, InitConfig)
    | {
        "gaussian_AB": GaussianABConfig,
        "etf": ETFConfig,
        "loftq": LoftQConfig,
        "eva": EVAConfig,
        "corda": CorDAConfig,
        "lora_ga": LoRAGAConfig,
        "lora_one": LoRAOneConfig,
        "vera_b0": VeraB0Config,
        "vera_d0": VeraD0Config,
    },
    "optimizer": {"adamw": AdamWConfig, "sgd": SGDConfig, "signsgd": SignSGDConfig},
    "tracker": {"none": TrackerConfig, "wandb": WandbConfig},
}


def register() -> None:
    """Put the schema where the YAML files' defaults lists find it: `/schema/<group>: <name>`."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    for group, nodes in SCHEMAS.items():
        for name, node in nodes.items():
            store.store(group=f"schema/{group}", name=name, node=node)


def from_hydra(cfg: DictConfig) -> Config:
    """The composed configuration as a plain `Config`, checked and resolved. Raises ConfigError."""
    return checked(plain(cfg))


def checked(config: Config) -> Config:
    """The configuration with what its checkpoint knows filled in, once all of it can be run. Raises ConfigError."""
    if config.task.name in TASKS:
        config = with_values(config, {"task": TASKS[config.task.name].resolve(config.task)})
    validate(config)
    return config


def plain(cfg: DictConfig) -> Config:
    """The composed configuration as a plain `Config` of known fields that all have values. Raises ConfigError."""
    if unknown := sorted(_unknown_keys(cfg)):
        # `+key=value` adds keys behind the schema's back; accepting one would mean ignoring what the user asked for.
        raise ConfigError(
            f"unknown key {unknown[0]!r}: no such field in the configuration. "
            "Remove it (a leading + does not help); `python -m runner --cfg job` lists every field"
        )
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg) | _deleted_keys(cfg)):
            raise ConfigError(f"{missing[0]}: has no value; set it on the command line")
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from error
    for group, schemas in SCHEMAS.items():
        name, chosen = getattr(config, group).name, type(getattr(config, group))
        if name in schemas and schemas[name] is not chosen:
            raise ConfigError(f"{group}.name={name}: the fields of another {group} are in place; use {group}={name}")
    return config


def _unknown_keys(cfg: DictConfig) -> set[str]:
    """Dotted names of keys that no field of the schema stands for."""
    return {f"{prefix}{key}" for prefix, node, fields in _nodes(cfg) for key in node if key not in fields}


def _deleted_keys(cfg: DictConfig) -> set[str]:
    """Dotted names of fields without a key (`~steps`)."""
    return {f"{prefix}{name}" for prefix, node, fields in _nodes(cfg) for name in fields if name not in node.keys()}


def _nodes(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig, set[str]]]:
    """(prefix, node, names of its schema's fields) of every node that has a schema."""
    kind = OmegaConf.get_type(cfg)
    if dataclasses.is_dataclass(kind):
        yield prefix, cfg, {field.name for field in dataclasses.fields(kind)}
        for key in cfg:
            if isinstance(node := cfg._get_node(key), DictConfig) and not node._is_none() and not node._is_missing():
                yield from _nodes(node, f"{prefix}{key}.")


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """A copy with other values at these dotted names; what it does not change it shares."""
    new = copy.copy(config)
    own = {"": new}
    for path, value in values.items():
        prefix, _, name = path.rpartition(".")
        for depth in range(len(parts := prefix.split(".") if prefix else [])):
            inner, outer = ".".join(parts[: depth + 1]), ".".join(parts[:depth])
            if inner not in own:
                own[inner] = copy.copy(getattr(own[outer], parts[depth]))
                setattr(own[outer], parts[depth], own[inner])
        setattr(own[prefix], name, value)
    return new


def as_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionary of all fields."""
    return {name: as_dict(value) if dataclasses.is_dataclass(value) else value for name, value in vars(config).items()}


def run_id(config: Config) -> str:
    """16 hex digits: SHA-256 of the canonical JSON of every field that can change a run's numbers."""
    fields = {key: value for key, value in as_dict(config).items() if key not in NOT_IDENTITY}
    text = json.dumps([IDENTITY_VERSION, fields], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

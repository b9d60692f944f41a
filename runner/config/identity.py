"""A configuration as plain data, copies of it with other values, and the identity of its run."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from runner.config.options import described
from runner.config.schema import Config

IDENTITY_VERSION = 6  # raise it when the same configuration would produce other numbers than before
# Where and how a run is kept, not what is computed.
NOT_IDENTITY = (
    "experiment",
    "outputs",
    "bases",
    "tracker",
    "executor",
    "stack",
    "workers",
    "retrain",
    "checkpoint",
    "search",
    "store",
)
NOT_KEPT = (
    "executor",
    "store",
)  # where it was trained, and with whom the folder was shared: it is the same run everywhere


def as_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionary of all fields."""
    return {name: as_dict(value) if dataclasses.is_dataclass(value) else value for name, value in vars(config).items()}


def as_known(config: Config) -> Config:
    """As a run is known and kept: one that asks for engine=compiled is the one that it is with `auto`, which may compile, too."""
    return with_values(config, {"engine": "auto"}) if config.engine == "compiled" else config


def as_kept(config: Config) -> dict[str, Any]:
    """All fields as a run keeps them: those that came later, or depend on another, where they say something, so that old and new
    runs compare, but for those NOT_KEPT."""
    config = as_known(config)
    fields = as_dict(config)
    for path, value, field in described(config):
        group, _, name = path.rpartition(".")
        own, other = fields[group] if group else fields, field.metadata.get("only_with")
        as_before = "before" in field.metadata and value == field.metadata["before"]
        if as_before or (other and own.get(other) is None):
            del own[name]
    return {name: value for name, value in fields.items() if value != {} and name not in NOT_KEPT}


def defining(config: Config) -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """(dotted name, value, declaration) of every field that can change a run's numbers."""
    return (each for each in described(as_known(config)) if each[0].partition(".")[0] not in NOT_IDENTITY)


def run_id(config: Config) -> str:
    """16 hex digits: SHA-256 of the canonical JSON of every field that can change a run's numbers."""
    fields = {key: value for key, value in as_kept(config).items() if key not in NOT_IDENTITY}
    text = json.dumps([IDENTITY_VERSION, fields], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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

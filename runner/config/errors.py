"""Errors of Hydra and OmegaConf as one clear message: the field, its value, what is allowed."""

import dataclasses
import re
import sys
import traceback
from collections.abc import Iterator
from difflib import get_close_matches

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from runner.config.options import ConfigError, refusal, shown
from runner.core.messages import first_line

COMPOSING = ("hydra._internal.config_loader_impl", "hydra._internal.defaults_list", "yaml")
READERS = ("hydra", "omegaconf", "yaml", "antlr4")  # libraries that read what the user asked for


def is_about_input(error: Exception) -> bool:
    """Whether the error is one of what the user asked for, rather than of the program.

    Hydra and its parsers report some malformed overrides and files (bad YAML, a folder that cannot be made) as errors of any
    kind, of their own or of the standard library.
    """
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        return True
    modules = [frame.f_globals.get("__name__", "").split(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = [name for name in modules if name not in sys.stdlib_module_names]
    return raised_in[-1:] != [] and raised_in[-1] in READERS


def explain(error: Exception) -> str:
    """The message, a line."""
    text = " ".join(_message(error).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _message(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)'", str(error)):
        return (
            f"{ambiguous[1]}: several values make a sweep, which takes -m (--multirun): python -m runner -m …; for a list write "
            "key=[a,b]"
        )
    if single := re.match(r"Sweep parameters '(.*)' requires --multirun", str(error)):
        return f"{single[1]}: a sweep takes -m (--multirun): python -m runner -m …"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: unknown; choose one of {', '.join(error.options)}"
    override = _override(error)
    if override and str(error).startswith("Could not append"):
        return f"{override.input_line}: the field is there; leave out the +"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        file = re.match(r"In '(.*?)': ", str(error))
        return _of_field(cause, None) + f" (in {file[1]}.yaml)" if file else _of_field(cause, override)
    if isinstance(error, OSError) and error.filename:
        fields = ", ".join(each.key_or_group for each in _of_hydra(error)) or "hydra.run.dir"
        return f"{shown(error.filename)}: cannot be used ({error.strerror}); see {fields}"
    blamed = [override] if override else _of_hydra(error)
    place = f"{', '.join(shown(each.input_line) for each in blamed)}: " if blamed else ""
    if blamed and (isinstance(error, AssertionError) or not str(error)):
        return f"{place}Hydra does not take it, and gives no reason"
    reason = re.sub(r"\w+ raised while composing config:", "", str(error)).partition("full_key:")[0]  # details follow
    return f"{place}{reason or type(error).__name__}"


def unreadable(override: str | None) -> str:
    """That a text is no override."""
    return (
        f"{shown(override)}: cannot be read as an override; put quotes around a value with special characters, once for the "
        "shell and once for Hydra: \"key='value'\""
    )


def _of_field(error: OmegaConfBaseException, override: Override | None) -> str:
    """What OmegaConf did not take for a field."""
    key, value, parent = error.full_key, error.value, error.parent_node
    deeper = override is not None and override.key_or_group.startswith(f"{key}.")
    if deeper or isinstance(error, ConfigAttributeError | ConfigKeyError):
        return unknown_key(override.key_or_group if deeper else key, parent)
    if isinstance(error, InterpolationResolutionError) and parent is not None:
        node = parent
        for part in str(error.key).split("."):  # of Hydra's own fields it is the whole name, and the parent is the root
            node = node._get_node(part)
        value = node._value()
    ours = dataclasses.is_dataclass(error.object_type) and error.object_type.__module__.startswith("runner.")
    fields = dataclasses.fields(error.object_type) if ours else ()
    if isinstance(error, ValidationError) and (declared := [field for field in fields if field.name == error.key]):
        return str(refusal(key, value, declared[0]))
    reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", first_line(error)).strip('"')
    return f"{key}={shown(value)}: {reason}"


def unknown_key(key: str, parent: DictConfig | None) -> str:
    """That there is no such key below `parent`, with the keys that may be meant."""
    if key in ("hydra.sweeper.grids", "hydra.sweeper.baselines"):
        return f"{key}: only the project's own sweeper knows it; leave out hydra/sweeper=…, or take an experiment without it"
    message = f"unknown key {key!r}"
    if not isinstance(parent, DictConfig):
        return message
    leaf = key.rpartition(".")[2]
    if there := [str(name) for name in parent if name not in ("hydra", leaf)]:
        message += f"; the fields there are {', '.join(there)}"
    names = {name: name.rpartition(".")[2] for name in _leaves(parent._get_root()) if name != key}
    near = [leaf] if leaf in names.values() else get_close_matches(leaf, names.values(), n=1)
    if meant := [name for name, last in names.items() if last in near]:
        message += f"; did you mean {' or '.join(meant[:3])}?"
    return message


def _leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields that can be set, without Hydra's own."""
    for key in node:
        child = node._get_node(key)
        if not isinstance(child, DictConfig):
            yield f"{prefix}{key}"
        elif key != "hydra" and not child._is_none() and not child._is_missing():
            yield from _leaves(child, f"{prefix}{key}.")


def _override(error: Exception) -> Override | None:
    """The override that Hydra was at when it failed."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(override := frame.f_locals.get("override"), Override):
            return override
    return None


def _of_hydra(error: Exception) -> list[Override]:
    """What the command sets of Hydra's own fields, whose errors do not name them, once all is composed."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_globals.get("__name__", "").startswith(COMPOSING) for frame in frames):
        return []
    commands = [frame.f_locals["command"] for frame in frames if hasattr(frame.f_locals.get("command"), "overrides")]
    found = [each for command in commands[:1] for each in command.overrides if each.key_or_group.startswith("hydra.")]
    return [each for each in found if each.key_or_group in str(error)] or found

"""What Hydra composes of the same files, kept: it takes a sixth of a second, twice or more a command, a third of what tests take.

Values are set in a copy of it, as Hydra sets them: see `test_config`.
"""

import copy
import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.config import Config
from runner.config.compose import CONF
from runner.config.registry import GROUPS

FILES = {*GROUPS, "experiment"}  # what chooses one
FIELDS = {field.name for field in dataclasses.fields(Config)}
FOLDERS = {"pkg://hydra.conf", "structured://", str(CONF), f"file://{CONF}"}  # whose files no test changes
by_hydra = ConfigLoaderImpl._load_configuration_impl
_kept: dict[Any, DictConfig] = {}


def keep() -> None:
    """From now on, in this process."""
    ConfigLoaderImpl._load_configuration_impl = _composed


@contextmanager
def kept_no_longer() -> Iterator[None]:
    """Within, Hydra composes everything itself."""
    ConfigLoaderImpl._load_configuration_impl = by_hydra
    try:
        yield
    finally:
        keep()


def _composed(
    loader: ConfigLoaderImpl,
    config_name: str | None,
    overrides: list[str],
    run_mode: RunMode,
    from_shell: bool = True,
    validate_sweep_overrides: bool = True,
) -> DictConfig:
    parsed = [_parsed(text) for text in overrides]
    swept = [o for o in parsed if o.is_sweep_override()]
    refused = swept and (
        (validate_sweep_overrides and run_mode is RunMode.RUN) or any(o.is_hydra_override() for o in swept)
    )
    # A whole node has its place among what is set: fields of it come before or after.
    nodes = any(isinstance(o.value(), dict) for o in parsed if o not in swept)
    if refused or nodes or not FOLDERS.issuperset(path.path for path in loader.config_search_path.get_path()):
        return by_hydra(loader, config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
    others = [o.input_line for o in parsed if o not in swept and not _is_a_value(o)]
    known = tuple(kind for parts in GROUPS.values() for kind in parts.options.values())
    key = (config_name, tuple(others), run_mode, from_shell, known, JobRuntime.instance().get("name"))
    if key not in _kept:
        _kept[key] = by_hydra(loader, config_name, others, run_mode, from_shell)
    config = copy.deepcopy(_kept[key])
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o not in swept and _is_a_value(o)], config)
    task = [o for o in parsed if not o.is_hydra_override()]
    config.hydra.overrides.task = [o.input_line for o in task]
    config.hydra.overrides.hydra = [o.input_line for o in parsed if o.is_hydra_override()]
    config.hydra.runtime.cwd = os.getcwd()
    said = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(task, said.exclude_keys, said.item_sep, said.kv_sep)
    return config


@cache
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _is_a_value(override: Override) -> bool:
    """Of a field of a run or a part; none of Hydra's own or with a sign in front."""
    key = override.key_or_group
    plain = override.type is OverrideType.CHANGE and override.package is None
    return plain and key not in FILES and key.partition(".")[0] in FIELDS

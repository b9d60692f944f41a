"""`--help`: every field of the configuration with its value, its meaning and the values that it takes."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from runner.config.command import Command
from runner.config.compose import CONF, choices
from runner.config.experiments import experiment_names
from runner.config.registry import GROUPS

USAGE = """\
python -m runner [-m] [key=value …]     one run, or with -m (and in experiments) a sweep over comma-separated values
python -m runner experiment=NAME        an experiment: {experiments}; or a new name
python -m runner key=value … --help     the fields of other choices; of a key that is given twice, the last value counts
python -m runner key=value … --cfg job  the configuration alone, as YAML
python -m runner key=value … --dry-run  how many runs there are, in which stacks, and their memory; trains nothing

"""


def help_text(command: Command) -> str:
    """The fields as the command's overrides have them; of a sweep, its first run."""
    overrides = [*command.search_path, *map(_first, command.overrides)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    return "\n".join(
        [
            *USAGE.format(experiments=", ".join(experiment_names(command.folders))).splitlines(),
            *_lines(cfg, command.folders),
        ]
    )


def _first(override: Override) -> str:
    if not override.is_discrete_sweep():
        return override.input_line
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def _lines(cfg: DictConfig, folders: Sequence[Path], indent: str = "", group: str = "") -> Iterator[str]:
    for field in dataclasses.fields(OmegaConf.get_type(cfg)):
        node = cfg._get_node(field.name)
        if isinstance(node, DictConfig):
            yield f"{indent}{field.name}:"
            yield from _lines(node, folders, f"{indent}  ", field.name)
            continue
        value = "???" if OmegaConf.is_missing(cfg, field.name) else cfg[field.name]
        yield f"{indent}{field.name}: {_yaml(value)}{_comment(field, group, folders)}"


def _yaml(value: object) -> str:
    if value == "???":
        return value
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def _comment(field: dataclasses.Field, group: str, folders: Sequence[Path]) -> str:
    if field.name == "name" and group in GROUPS:
        return f"  # {group}=…: {' | '.join(choices(group, folders))}"
    help, allowed = (field.metadata.get(name) for name in ("help", "allowed"))
    return f"  # {help}" + (f" ({allowed.text})" if allowed else "") if help else ""

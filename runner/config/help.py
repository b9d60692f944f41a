"""`--help`: every field of the configuration with its value, its meaning and the values that it takes."""

import dataclasses
from collections.abc import Iterator, Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from runner.config.compose import CONF
from runner.config.experiments import config_folders, known
from runner.config.registry import GROUPS

USAGE = """\
python -m runner [-m] [key=value …]     one run, or with -m (and in experiments) a sweep over comma-separated values
python -m runner experiment=NAME        an experiment: {experiments}; or a new name
python -m runner key=value … --help     the fields of other choices
python -m runner key=value … --cfg job  the configuration alone, as YAML

"""


def help_text(overrides: Sequence[str]) -> str:
    """The fields as these overrides have them."""
    folders = ",".join(f"'file://{folder.resolve()}'" for folder in config_folders(overrides))
    choices = [text for text in overrides if not text.startswith("-") and "=" in text]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"hydra.searchpath=[{folders}]", *choices])
    lines = USAGE.format(experiments=", ".join(known())).splitlines() + list(_lines(cfg, ""))
    return "\n".join(lines)


def _lines(cfg: DictConfig, indent: str, group: str = "") -> Iterator[str]:
    for field in dataclasses.fields(OmegaConf.get_type(cfg)):
        node = cfg._get_node(field.name)
        if isinstance(node, DictConfig):
            yield f"{indent}{field.name}:"
            yield from _lines(node, f"{indent}  ", field.name)
            continue
        value = "???" if OmegaConf.is_missing(cfg, field.name) else cfg[field.name]
        yield f"{indent}{field.name}: {_yaml(value)}{_comment(field, group)}"


def _yaml(value: object) -> str:
    return OmegaConf.to_yaml(OmegaConf.create([value])).removeprefix("- ").strip() if value != "???" else "???"


def _comment(field: dataclasses.Field, group: str) -> str:
    if field.name == "name" and group in GROUPS:
        return f"  # {group}=…: {' | '.join(sorted(GROUPS[group]))}"
    help, allowed = (field.metadata.get(name) for name in ("help", "allowed"))
    return f"  # {help}" + (f" ({allowed.text})" if allowed else "") if help else ""

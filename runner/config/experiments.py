"""Names of experiments: those that have a file, and new ones for ad-hoc sweeps."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from hydra.core.config_store import ConfigStore

from runner.config.compose import CONF
from runner.config.options import ConfigError
from runner.core.messages import say

NAME = re.compile(r"experiment=([A-Za-z_][\w.-]{0,99})")
NEAR = 0.8  # similarity from which a name counts as a misspelling of a known one


def known(folders: Sequence[Path] = ()) -> list[str]:
    """The experiments with a file, here and in further configuration folders."""
    return sorted({path.stem for folder in (CONF, *folders) for path in (folder / "experiment").glob("*.yaml")})


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders of configurations that the command adds."""
    folders = [Path(value) for flag, value in pairwise(arguments) if flag in ("--config-dir", "-cd")]
    return folders + [Path(text.partition("=")[2]) for text in arguments if text.startswith("--config-dir=")]


def admit_new_name(arguments: Sequence[str]) -> None:
    """Let `experiment=NAME` among the command's arguments name an ad-hoc sweep, if NAME has no file.

    Raises ConfigError where it is nearly the name of one that has.
    """
    names = [match[1] for match in map(NAME.fullmatch, arguments) if match]
    folders = config_folders(arguments)
    for name in names:
        if name in (files := known(folders)) or name == "null":
            continue
        if near := get_close_matches(name, files, n=1, cutoff=NEAR):
            raise ConfigError(
                f"experiment={name}: did you mean {near[0]}? A new name must be less like a known one; those are "
                f"{', '.join(files)}"
            )
        outputs = next(
            (text.partition("=")[2] for text in reversed(arguments) if text.startswith("outputs=")), "outputs"
        )
        folder = Path(outputs) / "runs" / name
        if not folder.exists():
            say(f"experiment={name}: a new name; its runs go to {folder}")
        ConfigStore.instance().store(group="experiment", name=name, node={"experiment": name}, package="_global_")

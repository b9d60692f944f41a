"""Names of experiments: those that have a file, and new ones for ad-hoc sweeps."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from hydra.core.config_store import ConfigStore

from runner.config.checks import NAME
from runner.config.compose import CONF
from runner.config.options import ConfigError
from runner.core.messages import say

CHOICE = re.compile(rf"experiment=({NAME})")
SIMILARITY_CUTOFF = 0.8  # from which a name counts as a misspelling of a known one
FOLDER_FLAGS = ("--config-dir", "-cd")


def experiment_names(folders: Sequence[Path] = ()) -> list[str]:
    """The experiments with a file, here and in further configuration folders."""
    return sorted({path.stem for folder in (CONF, *folders) for path in (folder / "experiment").glob("*.yaml")})


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders of configurations that the command adds."""
    folders = [Path(value) for flag, value in pairwise(arguments) if flag in FOLDER_FLAGS]
    return folders + [Path(text.partition("=")[2]) for text in arguments if text.startswith("--config-dir=")]


def without_flags(arguments: Sequence[str]) -> list[str]:
    """The overrides among the command's arguments. Raises ConfigError for flags that a sweep cannot take."""
    after_folder = {place + 1 for place, text in enumerate(arguments) if text in FOLDER_FLAGS}
    overrides = []
    for place, text in enumerate(arguments):
        if not text.startswith("-"):
            overrides += [text] * (place not in after_folder)
        elif text not in ("-m", "--multirun", *FOLDER_FLAGS) and not text.startswith("--config-dir="):
            raise ConfigError(f"{text}: cannot be used here; allowed are overrides (key=value) and --config-dir")
    return overrides


def register_new_name(overrides: Sequence[str], arguments: Sequence[str] = ()) -> None:
    """Let `experiment=NAME` among the overrides name an ad-hoc sweep, if NAME has no file.

    `arguments`: the whole command, which may add folders of configurations. Raises ConfigError where NAME is nearly that of an
    experiment that has a file, unless runs of that name are there already.
    """
    names = experiment_names(config_folders(arguments or overrides))
    for name in (match[1] for match in map(CHOICE.fullmatch, overrides) if match):
        if name in names or name == "null":
            continue
        values = [text.partition("=")[2] for text in overrides if text.startswith("outputs=")]
        folder = Path(values[-1].strip("'\"") if values else "outputs") / "runs" / name
        if not folder.exists():
            if near := get_close_matches(name, names, n=1, cutoff=SIMILARITY_CUTOFF):
                raise ConfigError(
                    f"experiment={name}: did you mean {near[0]}? A new name must be less like a known one; those are "
                    f"{', '.join(names)}"
                )
            say(f"experiment={name}: a new name; its runs go to {folder}")
        ConfigStore.instance().store(group="experiment", name=name, node={"experiment": name}, package="_global_")

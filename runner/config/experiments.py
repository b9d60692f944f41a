"""Names of experiments: those that have a file, and new ones for ad-hoc sweeps."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.core.config_store import ConfigStore

from runner.config.command import Command
from runner.config.compose import choices
from runner.config.options import ConfigError
from runner.config.schema import Config

SIMILARITY_CUTOFF = 0.8  # from which a name counts as a misspelling of a known one


def experiment_names(folders: Sequence[Path] = ()) -> list[str]:
    """The experiments with a file, here and in further configuration folders."""
    return choices("experiment", folders)


def register_new_names(command: Command) -> None:
    """Let `experiment=NAME` name an ad-hoc sweep, if NAME has no file.

    Raises ConfigError where NAME is nearly that of an experiment that has a file, unless runs of that name are there already,
    and where there is a file of that name in a folder that the command does not add.
    """
    names = experiment_names(command.folders)
    outputs = (command.values("outputs") or ["outputs"])[-1]
    for name in command.values("experiment"):
        if name in names:
            continue
        if unread := sorted(Path().glob(f"*/experiment/{name}.yaml")):
            folder = unread[0].parent.parent
            raise ConfigError(
                f"experiment={name}: {unread[0]} is not read without --config-dir {folder}; add that, or choose another name"
            )
        near = get_close_matches(name, names, n=1, cutoff=SIMILARITY_CUTOFF)
        if near and not _folder(str(outputs), name).exists():
            raise ConfigError(
                f"experiment={name}: did you mean {near[0]}? A new name must be less like a known one; those are "
                f"{', '.join(names)}"
            )
        ConfigStore.instance().store(group="experiment", name=name, node={"experiment": name}, package="_global_")


def new_name(config: Config) -> str | None:
    """What to say of a name without a file and without runs: that it is new. None of others."""
    registered = f"{config.experiment}.yaml" in ConfigStore.instance().repo.get("experiment", {})
    folder = _folder(config.outputs, config.experiment)
    if not registered or folder.exists():
        return None
    return f"experiment={config.experiment}: a new name; its runs go to {folder}"


def _folder(outputs: str, name: str) -> Path:
    return Path(outputs) / "runs" / name

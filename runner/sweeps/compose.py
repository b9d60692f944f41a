"""From the overrides of a sweep to the configurations of its runs."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from runner.config import Config, ConfigError
from runner.config.compose import CONF, register
from runner.config.experiments import config_folders, register_new_name, without_flags

LIST = re.compile(r"experiment=(\w[\w.-]*(?:,\w[\w.-]*)+)")


def compose_sweep(arguments: Sequence[str]) -> list[Config]:
    """The checked configurations, as `python -m runner -m` composes them; of several experiments (experiment=a,b), one after
    the other, each with axes of its own. Raises ConfigError."""
    register()
    folders = ",".join(f"'file://{folder.resolve()}'" for folder in config_folders(arguments))
    shared = [f"hydra.searchpath=[{folders}]"] if folders else []
    overrides = without_flags(arguments)
    if others := [text for text in overrides if re.match(r"hydra/(sweeper|launcher)=", text)]:
        raise ConfigError(
            f"{others[0]}: launches single runs from the command line, of one experiment; leave it out here"
        )
    configs: list[Config] = []
    for name in experiment_list(overrides) or [None]:
        own = [f"experiment={name}" if name and text.startswith("experiment=") else text for text in overrides]
        register_new_name(own, arguments)
        with hydra_of_our_own() as hydra:
            configs += hydra.multirun("config", lambda configs: configs, [*shared, *own], with_log_configuration=False)
    return configs


def experiment_list(arguments: Sequence[str]) -> list[str]:
    """The names in `experiment=a,b`; none where there are not at least two."""
    lists = [match[1].split(",") for match in map(LIST.fullmatch, arguments) if match]
    return lists[-1] if lists else []


@contextmanager
def hydra_of_our_own() -> Iterator[Hydra]:
    """A Hydra for our configurations; one that the program around us has set up is as it was afterwards."""
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield GlobalHydra.instance().hydra
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before

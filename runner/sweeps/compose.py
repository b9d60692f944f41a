"""From the overrides of a sweep to the configurations of its runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from runner.config import ConfigError
from runner.config.command import Command
from runner.config.compose import CONF, register
from runner.sweeps.search import Request


def compose_sweep(command: Command) -> Request:
    """The checked configurations and searches, as `python -m runner -m` composes them; of several experiments
    (experiment=a,b), one after the other, each with axes of its own. New names are registered before. Raises ConfigError."""
    register()
    if others := sorted(command.flags.keys() - {"multirun", "dry_run"}):
        flag = f"--{others[0].replace('_', '-')}"
        raise ConfigError(f"{flag}: cannot be used here; allowed are overrides (key=value) and --config-dir")
    for override in command.overrides:
        if override.key_or_group in ("hydra/sweeper", "hydra/launcher"):
            raise ConfigError(
                f"{override.input_line}: launches single runs from the command line, of one experiment; leave it out here"
            )
    whole = Request()
    for name in command.values("experiment") or [None]:
        own = [
            f"experiment={name}" if each.key_or_group == "experiment" else each.input_line for each in command.overrides
        ]
        with hydra_of_our_own() as hydra:
            request = hydra.multirun(
                "config", lambda request: request, [*command.search_path, *own], with_log_configuration=False
            )
        whole.runs += request.runs
        whole.searches += request.searches
    return whole


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

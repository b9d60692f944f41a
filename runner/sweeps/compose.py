"""From the overrides of a sweep to the configurations of its runs."""

from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from runner.config import Config
from runner.config.compose import CONF, register
from runner.config.experiments import admit_new_name

SEVERAL = "experiment="


def compose_sweep(arguments: Sequence[str]) -> list[Config]:
    """The checked configurations, as `python -m runner -m` composes them; of several experiments (experiment=a,b), one after
    the other, each with axes of its own."""
    register()
    configs = []
    for name in several(arguments) or [None]:
        own = [f"{SEVERAL}{name}" if name and text.startswith(SEVERAL) else text for text in arguments]
        admit_new_name(own)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            configs += hydra.multirun("config", lambda configs: configs, own, with_log_configuration=False)
    return configs


def several(arguments: Sequence[str]) -> list[str]:
    """The names in `experiment=a,b`; none where there are not at least two."""
    named = [text.removeprefix(SEVERAL).split(",") for text in arguments if text.startswith(SEVERAL)]
    return named[-1] if named and len(named[-1]) > 1 else []

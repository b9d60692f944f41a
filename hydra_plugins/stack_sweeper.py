"""Hydra sweeper that composes a whole sweep first and hands it over as one list, so that runs can share stacks.

It expands overrides exactly as Hydra's basic sweeper does and gives every run the configuration Hydra would give it, but
composes the defaults list only once per combination of group choices, applies plain values to copies, and launches
nothing: all configurations are checked before the first run trains.
"""

import copy
import sys
from dataclasses import dataclass
from functools import cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from runner.schema import ConfigError


@dataclass
class StackSweeperConf:
    _target_: str = "hydra_plugins.stack_sweeper.StackSweeper"
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="stack", node=StackSweeperConf, provider="runner")


class StackSweeper(Sweeper):
    """`hydra.sweeper.params` and the command line give the axes; an axis named twice is the command line's."""

    def __init__(self, params: dict[str, str] | None = None):
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config  # no launcher: stacks are not Hydra jobs

    def sweep(self, arguments: list[str]) -> None:
        from runner.config import from_hydra
        from runner.sweep import execute

        if code := execute([from_hydra(cfg) for cfg in self.compose(arguments)]):
            sys.exit(code)

    def compose(self, arguments: list[str]) -> list[DictConfig]:
        """The configuration of every run of the sweep, in Hydra's order."""
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        parse, is_group = cache(parser.parse_override), cache(lambda key: bool(loader.get_group_options(key)))
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        if any(o.key_or_group == "experiment" and o.is_sweep_override() for o in parser.parse_overrides(arguments)):
            raise ConfigError("experiment: each has axes of its own; run one command for each")
        [jobs] = BasicSweeper.split_arguments(parser.parse_overrides(given), None)
        composed: dict[tuple[str, ...], DictConfig] = {}
        configs = []
        for job in jobs:
            # Choices pick files and so take part in composing the defaults list; values are set in its result.
            choices = tuple(text for text in job if is_group(parse(text).key_or_group))
            if choices not in composed:
                composed[choices] = loader.load_sweep_config(self.config, list(choices))
                with open_dict(composed[choices]):
                    del composed[choices]["hydra"]
            config = copy.deepcopy(composed[choices])
            ConfigLoaderImpl._apply_overrides_to_config([parse(text) for text in job if text not in choices], config)
            configs.append(config)
        return configs

"""Hydra sweeper that composes a whole sweep first and hands it over as one list, so that runs can share stacks.

It expands overrides exactly as Hydra's basic sweeper does and gives every run the configuration Hydra would give it, but
composes the defaults list only once per combination of group choices, sets plain values in its result, and launches
nothing: all configurations are checked before the first run trains. An interval of learning rates is a search.
"""

import copy
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.config import Config, ConfigError
from runner.config.command import MOST_RUNS, check, too_many
from runner.sweeps.search import Axis, Request, searches


@dataclass
class StackSweeperConf:
    _target_: str = "hydra_plugins.stack_sweeper.StackSweeper"
    params: dict[str, str] | None = None
    grids: list[dict[str, str]] | None = None
    baselines: list[dict[str, str]] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="stack", node=StackSweeperConf, provider="runner")


class StackSweeper(Sweeper):
    """`hydra.sweeper.params` and the command line give the axes; an axis named twice is the command line's.

    `hydra.sweeper.grids` lists further axes of several grids, each of which is swept with those of `params`: a sweep whose
    axes do not all go together, such as an init that one adapter takes and another does not.

    `hydra.sweeper.baselines` lists further grids, of which adapter and init stand whatever else is asked for; null leaves them
    out.
    """

    def __init__(
        self,
        params: dict[str, str] | None = None,
        grids: list[dict[str, str]] | None = None,
        baselines: list[dict[str, str]] | None = None,
    ):
        self.params, self.grids, self.baselines = params or {}, grids or [{}], baselines or []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # no launcher: stacks are not Hydra jobs
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """What the task function makes of the configurations of all runs at once."""
        return self.task_function(self.compose(arguments))

    def compose(self, arguments: list[str]) -> Request:
        """The checked configuration of every run of the sweep, in Hydra's order, and the searches along its intervals."""
        if (launcher := self.config.hydra.runtime.choices["hydra/launcher"]) != "basic":
            raise ConfigError(
                f"hydra/launcher={launcher}: stacks of runs are not Hydra jobs; for processes on this machine use workers=N, "
                "or add hydra/sweeper=basic to launch single runs"
            )
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        parse = cache(parser.parse_override)
        # Not of the loader, which copies all that is registered for each question.
        is_group = cache(lambda key: bool(loader.repository.get_group_options(key)))
        HydraConfig.instance().set_config(self.config)  # for values that refer to `hydra:`
        jobs: list[tuple[list[str], tuple[Axis, ...], bool]] = []
        grids = [
            *((given, False) for given in self._grids(arguments)),
            *((b, True) for b in self._baselines(arguments)),
        ]
        for given, is_baseline in grids:
            every = parser.parse_overrides(given)
            overrides = list(
                {override.get_key_element(): override for override in every}.values()
            )  # the last one counts
            if any(override.key_or_group == "experiment" and override.is_sweep_override() for override in overrides):
                raise ConfigError("experiment: each has axes of its own; name them as a list, experiment=a,b")
            if check(overrides) + len(jobs) > MOST_RUNS:
                raise too_many(f"hydra.sweeper.grids: the sweep has more than {len(jobs)} runs")
            axes = {override.key_or_group: Axis.of(override) for override in overrides if override.is_interval_sweep()}
            discrete = [parse(axes[o.key_or_group].placeholder) if o.is_interval_sweep() else o for o in overrides]
            searched = tuple(axes.values())
            jobs += [
                (job, searched, is_baseline) for batch in BasicSweeper.split_arguments(discrete, None) for job in batch
            ]
        composed = cache(lambda choices: loader.load_sweep_config(self.config, list(choices)))
        templates: dict[tuple[tuple[str, ...], frozenset[str]], Template] = {}
        configs: dict[tuple[Axis, ...], list[Config]] = {}
        for job, searched, is_baseline in jobs:
            # Choices pick files and so take part in composing the defaults list; values, of whole nodes too, are set in
            # its result.
            choices = tuple(
                text for text in job if is_group(parse(text).key_or_group) and not isinstance(parse(text).value(), dict)
            )
            values = {text: parse(text) for text in job if text not in choices}
            alike = choices, frozenset(override.key_or_group for override in values.values())
            if alike not in templates:
                templates[alike] = Template(copy.deepcopy(composed(choices)))
            try:
                configs.setdefault(searched, []).append(templates[alike].configure(values))
            except ConfigError as error:
                leave_out = "; it is a baseline's, and hydra.sweeper.baselines=null leaves that out"
                raise ConfigError(f"{error}{leave_out * is_baseline}") from error
        plain = configs.pop((), [])
        return Request(plain, [search for searched, some in configs.items() for search in searches(some, searched)])

    def _grids(self, arguments: list[str]) -> list[list[str]]:
        """The overrides of each grid."""
        return [[*_written({**self.params, **grid}), *arguments] for grid in self.grids]

    def _baselines(self, arguments: list[str]) -> list[list[str]]:
        """Likewise, without what is said elsewhere of adapter and init; none of an adapter that is asked for itself."""
        params, others = (
            [text for text in texts if not re.match(r"\W*(adapter|init)\b", text)]
            for texts in (_written(self.params), arguments)
        )
        asked = [text.split("=", 1)[1].split(",") for text in arguments if text.startswith("adapter=")]
        return [
            [*params, *_written(baseline), *others]
            for baseline in self.baselines
            if not any(baseline.get("adapter") in adapters for adapters in asked)
        ]


def _written(values: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


class Template:
    """A composed configuration in which jobs of the same choices, and values of the same keys, take turns to set them.

    Composing, copying and converting it for each job would take 5 ms. As its jobs set the same keys, each
    replaces what the last one set, and only these values and those that refer to others can differ between jobs.
    """

    def __init__(self, composed: DictConfig):
        with open_dict(composed):
            del composed["hydra"]
        self.composed = composed
        self.first: Config | None = None

    def configure(self, overrides: dict[str, Override]) -> Config:
        """The checked configuration with these overrides."""
        from runner.config.compose import checked, from_hydra, plain
        from runner.config.identity import with_values

        if not all(map(_is_plain, overrides.values())):
            config = copy.deepcopy(self.composed)
            ConfigLoaderImpl._apply_overrides_to_config(list(overrides.values()), config)
            return from_hydra(config)
        if self.first is None:
            ConfigLoaderImpl._apply_overrides_to_config(list(overrides.values()), self.composed)
            self.first = plain(self.composed)
            self.at_first = self.now = set(overrides)
            self.references = _references(self.composed)
            return checked(self.first)
        changed = [override for text, override in overrides.items() if text not in self.now]
        ConfigLoaderImpl._apply_overrides_to_config(changed, self.composed)
        self.now = set(overrides)
        keys = {override.key_or_group for text, override in overrides.items() if text not in self.at_first}
        return checked(with_values(self.first, {k: OmegaConf.select(self.composed, k) for k in keys | self.references}))


def _is_plain(override: Override) -> bool:
    """Whether it only sets an existing key to a value (no + or ~, no whole node, no ???), as almost all do."""
    value = override.value()
    return override.type is OverrideType.CHANGE and not isinstance(value, dict | list) and value != "???"


def _references(node: DictConfig, prefix: str = "") -> set[str]:
    """Dotted keys of the values that refer to others (`${…}`)."""
    keys = set()
    for key in node:
        child = node._get_node(key)
        if child._is_interpolation():
            keys.add(f"{prefix}{key}")
        elif isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            keys |= _references(child, f"{prefix}{key}.")
    return keys

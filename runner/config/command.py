"""A command's arguments, and what can be said of them before anything is composed."""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, RangeSweep

from runner.config.compose import choices
from runner.config.errors import unreadable
from runner.config.options import ConfigError, shown
from runner.config.registry import GROUPS
from runner.config.schema import EXPERIMENT

FILE = r"[\w./-]+"  # of conf/<group>
MOST_RUNS = 100_000  # of a sweep: each is composed and checked before the first is trained


@dataclass(frozen=True)
class Command:
    """Overrides, a further folder of configurations (none or one), and the other flags that are set, by name.

    `arguments`: the same, as Hydra's own parser wants them: flags before overrides.
    """

    overrides: list[Override]
    folders: list[Path]
    flags: dict[str, Any]
    arguments: list[str]

    @property
    def search_path(self) -> list[str]:
        """An override that makes the further folder known; none where there is none."""
        folders = [QuotedString(f"file://{folder.resolve()}", Quote.single).with_quotes() for folder in self.folders]
        return [f"hydra.searchpath=[{folder}]" for folder in folders]

    def values(self, key: str) -> list[Any]:
        """What the command line gives for a key: none, one, or those of a list that is swept."""
        return [value for override in self.overrides if override.key_or_group == key for value in _values(override)]


def read(arguments: Sequence[str]) -> Command:
    """The arguments of a command, checked. Raises ConfigError."""
    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.add_argument("--dry-run", action="store_true")  # Hydra has none
    parser.error = _refuse  # argparse would print how to use all flags of Hydra's
    flags = vars(parser.parse_intermixed_args(arguments))
    texts, folder = flags.pop("overrides"), flags.pop("config_dir")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"--config-dir {shown(folder)}: there is no such folder")
    overrides = _last_of_each(map(_parsed, texts))
    check(overrides)
    folders = [] if folder is None else [Path(folder)]
    ordered = [
        *(text for text in arguments if text not in (*texts, "--dry-run")),
        *(override.input_line for override in overrides),
    ]
    return Command(overrides, folders, {name: value for name, value in flags.items() if value}, ordered)


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}; `python -m runner --help` says what there is")


def _parsed(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
    except Exception as error:  # of Hydra's grammar, or of what it calls to convert a value
        raise ConfigError(unreadable(text)) from error
    if not override.key_or_group:
        raise ConfigError(unreadable(text))
    return override


def _last_of_each(overrides: Iterable[Override]) -> list[Override]:
    """Without those whose key is given once more later: as in Hydra, the last one counts."""
    last: dict[str, Override] = {}
    for override in overrides:
        key = override.get_key_element().lstrip("+")
        last.pop(key, None)
        last[key] = override
    return list(last.values())


def check(overrides: Sequence[Override]) -> int:
    """The number of runs that they span. Raises ConfigError for what is wrong with an override whatever the configuration."""
    sweeps_here = not any(override.key_or_group == "hydra/sweeper" for override in overrides)
    for override in overrides:
        key, text = override.key_or_group, override.input_line
        if override.is_delete():
            raise ConfigError(f"{key}: has no value, because {text} removes it; leave that out")
        own = re.match(r"hydra\.sweeper\.(params|grids|baselines)\b", key)
        if sweeps_here and own and not (key == "hydra.sweeper.baselines" and override.value() is None):
            raise ConfigError(f"{text}: is for experiment files; on the command line write -m key=value,value")
        if key == "experiment" or key in GROUPS:
            _check_choice(override)
        for value in _values(override):
            if isinstance(value, int) and value.bit_length() >= sys.float_info.max_exp:  # which no float can hold
                raise ConfigError(f"{key}={shown(value)}: is larger than any field takes; give a smaller number")
    return count_runs(overrides)


def count_runs(overrides: Sequence[Override]) -> int:
    """How many runs the axes among the overrides span, of which none is expanded. Raises ConfigError for none, or too many."""
    last = _last_of_each(overrides)
    axes = {override.input_line: _count(override) for override in last if override.is_discrete_sweep()}
    for text, count in axes.items():
        if not count:
            raise ConfigError(f"{text}: the sweep has no runs, because this axis has no values")
    if (runs := math.prod(axes.values())) > MOST_RUNS:
        raise too_many(f"{max(axes, key=axes.get)}: the sweep has {runs} runs")
    return runs


def too_many(what: str) -> ConfigError:
    return ConfigError(f"{what}, and one command takes up to {MOST_RUNS}; give fewer values, or several commands")


def _count(override: Override) -> int:
    """The number of values of an axis."""
    value = override.value()
    if not isinstance(value, RangeSweep):
        known = isinstance(value, ChoiceSweep) or override.config_loader is not None  # a glob needs to see the files
        return len(list(override.sweep_iterator())) if known else 1
    try:
        start, stop, step = (Fraction(str(number)) for number in (value.start, value.stop, value.step))
        return max(0, -((start - stop) // step))
    except (ValueError, ZeroDivisionError) as error:  # nan, inf
        raise ConfigError(f"{override.input_line}: a range needs finite ends, and a step that is not 0") from error


def _check_choice(override: Override) -> None:
    """Raise ConfigError unless every value is like the name of a file; whether there is one, Hydra knows."""
    group = override.key_or_group
    if group == "experiment" and override.is_sweep_override() and not isinstance(override.value(), ChoiceSweep):
        raise ConfigError(
            f"{override.input_line}: each experiment has axes of its own; name them as a list, experiment=a,b"
        )
    for value in _values(override):
        if group == "experiment":
            if not (isinstance(value, str) and EXPERIMENT.accepts(value)):
                raise ConfigError(f"experiment={shown(value)}: must be {EXPERIMENT.text}")
        elif not (isinstance(value, dict) or (isinstance(value, str) and re.fullmatch(FILE, value))):
            raise ConfigError(f"{group}={shown(value)}: unknown; choose one of {', '.join(choices(group))}")


def _values(override: Override) -> Iterator[Any]:
    """The values of an override, of a sweep each; of sweeps that are no lists none."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        yield from (getattr(each, "text", each) for each in value.list)  # a text in quotes is an object
    elif not override.is_sweep_override():
        yield value

"""Searches for the best learning rate: `optimizer.lr=interval(1e-6,1)` in a sweep, round by round through the planner.

What a search asks for next is a function of the losses of what it asked for before, and nothing else: a command that was killed
finds its runs in the store, comes to the same questions, and goes on.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override

from runner.config import Config, ConfigError
from runner.config.identity import run_id, with_values
from runner.core.optimum import logs
from runner.store.outcome import FAILED, INTERRUPTED
from runner.sweeps.plan import cost
from runner.sweeps.rates import Point, RateSearch, rate
from runner.sweeps.results import SKIPPED, Results

RATES = ("optimizer.lr", "optimizer.lr_ratio")


@dataclass(frozen=True)
class Axis:
    """A field whose best value is searched, from `low` to `high` to start with."""

    field: str
    low: float
    high: float

    @classmethod
    def of(cls, override: Override) -> "Axis":
        """Raises ConfigError where an interval of this field, or this interval, cannot be searched."""
        text, value, name = override.input_line, override.value(), override.key_or_group
        assert isinstance(value, IntervalSweep)
        if name not in RATES:
            raise ConfigError(
                f"{text}: only {' and '.join(RATES)} are searched; give {name} a list of values, choice(…) or range(…)"
            )
        low, high = float(value.start), float(value.end)
        if not (0 < low < high < np.inf):
            raise ConfigError(
                f"{text}: an interval of rates goes from a number above 0 to a larger one, such as interval(1e-6,1)"
            )
        return cls(name, low, high)

    @property
    def placeholder(self) -> str:
        """An override that gives the field a value for as long as none has been chosen."""
        return f"{self.field}={self.low!r}"


class Search:
    """The search of one setting. `configs`: its configuration, for each seed, with any values along the axes.

    `runs`: those asked for so far, by their place and seed.
    """

    def __init__(self, configs: Sequence[Config], axes: Sequence[Axis]):
        self.configs = {config.seed: config for config in configs}
        self.axes = axes
        self.rates = RateSearch([(axis.low, axis.high) for axis in axes], list(self.configs), configs[0].search.within)
        self.experiment = configs[0].experiment
        self.runs: dict[tuple[Point, int], Config] = {}

    def next(self, rows: Mapping[tuple[str, str], dict[str, Any]]) -> dict[tuple[Point, int], Config]:
        """The runs that are to be trained next, given the rows of `Results` by experiment and run id; none at the end of the
        search, or where a run has failed."""
        tried: dict[Point, dict[int, float]] = {}
        starts = []
        for (point, seed), config in self.runs.items():
            row = rows[key(config)]
            if row["status"] in (FAILED, INTERRUPTED):
                return {}
            # One that broke down has no loss.
            tried.setdefault(point, {})[seed] = np.inf if row["loss"] is None else float(logs(row["loss"]))
            starts += [] if row["start"] is None else [float(logs(row["start"]))]
        wanted = self.rates.wanted(tried, float(np.mean(starts)) if starts else np.inf)
        places = [(point, seed) for point, n in wanted.items() for seed in self.rates.seeds[:n]]
        return {place: self._config(*place) for place in places if place not in self.runs}

    def _config(self, point: Point, seed: int) -> Config:
        values = {axis.field: rate(power) for axis, power in zip(self.axes, point, strict=True)}
        return with_values(self.configs[seed], values)


@dataclass
class Request:
    """What a command asks for: runs that are known, and searches for others."""

    runs: list[Config] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)

    @property
    def configs(self) -> list[Config]:
        """All configurations, of a search with placeholders along its axes."""
        return [*self.runs, *(config for search in self.searches for config in search.configs.values())]


def searches(configs: Sequence[Config], axes: Sequence[Axis]) -> list[Search]:
    """One for each setting among configurations that differ in seeds and settings."""
    settings: dict[tuple[str, ...], list[Config]] = {}
    for config in configs:
        settings.setdefault((*key(with_values(config, {"seed": 0})), str(config.search)), []).append(config)
    return [Search(of_setting, axes) for of_setting in settings.values()]


def key(config: Config) -> tuple[str, str]:
    """What tells runs apart in a store."""
    return config.experiment, run_id(config)


def rounds(request: Request, results: Results) -> Iterator[list[Config]]:
    """The runs to train, round by round: the first holds all that are known, each other one what the searches ask for after the
    results so far. Raises ConfigError where the first is more than `search.max_runs`."""
    limits, started, spent = request.configs[0].search, time.monotonic(), set()
    configs, first = list(request.runs), True
    while True:
        rows = {key(row["config"]): row for row in results.rows}
        wanted = {search: runs for search in request.searches if (runs := search.next(rows))}
        taken = {}
        for search, runs in wanted.items():
            after = spent | {key(config) for config in runs.values()}
            if limits.max_runs is None or len(after) <= limits.max_runs:
                taken[search], spent = runs, after
        if first and len(taken) < len(wanted):
            raise _too_few(limits.max_runs, wanted)
        configs = results.missing([*configs, *(config for runs in taken.values() for config in runs.values())])
        if not first and not taken:
            results.note(_unfinished(f"search.max_runs={limits.max_runs}", len(wanted)))
            return
        if not first and _is_late(limits.minutes, started, configs, results):
            results.note(_unfinished(f"search.minutes={limits.minutes:g}", len(wanted)))
            return
        for search, runs in taken.items():
            search.runs |= runs
        if configs:
            yield configs
        if not taken or results.count(INTERRUPTED):
            return
        configs, first = [], False


def _too_few(limit: int, wanted: Mapping[Search, Mapping]) -> ConfigError:
    return ConfigError(
        f"search.max_runs={limit}: the first round alone has {sum(map(len, wanted.values()))} runs; allow at least as many, or "
        "give fewer seeds, a narrower interval or fewer values of other axes"
    )


def _is_late(minutes: float | None, started: float, configs: Sequence[Config], results: Results) -> bool:
    """Whether these runs would not be trained in time, at the pace so far."""
    if minutes is None:
        return False
    spent = time.monotonic() - started
    trained = sum(cost(row["config"]) for row in results.rows if row["status"] != SKIPPED)
    pace = spent / trained if trained else 0.0
    return spent + pace * sum(map(cost, configs)) > 60 * minutes


def _unfinished(limit: str, count: int) -> str | None:
    """None where no search is left."""
    if not count:
        return None
    return f"{limit} is spent, with {count} search{'es' * (count > 1)} unfinished; the same command with more goes on from here"

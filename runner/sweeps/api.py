"""The Python API: sweeps from notebooks and scripts, with the store, checks, resume and stacks of the command line."""

import multiprocessing
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.override_parser.types import Quote, QuotedString

from runner.config import Config, ConfigError
from runner.config.command import read
from runner.config.errors import explain, is_about_input
from runner.config.experiments import register_new_names
from runner.config.identity import run_id
from runner.sweeps.compose import compose_sweep
from runner.sweeps.execute import execute
from runner.sweeps.results import Results

PLAIN = re.compile(r"[A-Za-z0-9_./-]+")  # what needs no quotes


@dataclass(frozen=True, repr=False)
class SweepResult:
    """What a sweep's runs are in the store; the tables are those of `analysis`, of these runs alone."""

    results: Results

    @property
    def configs(self) -> list[Config]:
        return [row["config"] for row in self.results.rows]

    def __repr__(self) -> str:
        counts = self.status["status"].value_counts()
        return f"<sweep of {len(self.configs)} runs: {', '.join(f'{n} {status}' for status, n in counts.items())}>"

    @property
    def runs(self) -> pd.DataFrame:
        """One row per finished or diverged run: configuration and summary."""
        import analysis

        return self._own(analysis.runs)

    @property
    def steps(self) -> pd.DataFrame:
        """One row per run and logged step: configuration, summary and measured columns."""
        import analysis

        return self._own(analysis.load)

    @property
    def status(self) -> pd.DataFrame:
        """One row per run: how it ended (finished, diverged, failed, interrupted, skipped), with its error."""
        return pd.DataFrame(self.results.rows)[["run_id", "status", "error", "loss"]]

    @property
    def folders(self) -> list[Path]:
        """Where the runs are, a folder an experiment."""
        return [
            Path(self.configs[0].outputs) / "runs" / name for name in dict.fromkeys(c.experiment for c in self.configs)
        ]

    def _own(self, read: Any) -> pd.DataFrame:
        tables = []
        for folder in self.folders:
            table = read(folder)
            own = {run_id(config) for config in self.configs if config.experiment == folder.name}
            tables.append(table[table["run_id"].isin(own)])
        return pd.concat(tables, ignore_index=True)


def sweep(*overrides: str, **values: Any) -> SweepResult:
    """Train a sweep, or what of it is not done yet; as `python -m runner -m` with these overrides.

    `overrides`: as on the command line ("init=gaussian_A,gaussian_B"). `values`: fields by name, dotted ones in a dictionary
    (`**{"task.width": 64}`); a list or range is an axis. Raises ConfigError with the message that the command line prints,
    and KeyboardInterrupt once finished runs are stored and the others are marked.
    """
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("runner.sweep was called in a process that multiprocessing started; call it in the main one")
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigError(
                f"{override!r}: is no override; give texts such as 'seed=0,1', or values by name, seed=[0, 1]"
            )
    arguments = [*overrides, *(f"{name}={_text(name, value)}" for name, value in _flat(values))]
    try:
        command = read(arguments)
        if command.flags.get("dry_run"):
            raise ConfigError("--dry-run: is for the command line; leave it out here")
        register_new_names(command)
        request = compose_sweep(command)
        results = execute(request.runs, request.searches)
    except Exception as error:
        if not is_about_input(error):
            raise
        raise ConfigError(explain(error)) from error
    if results.exit_code == 130:
        raise KeyboardInterrupt
    return SweepResult(results)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(name: str, value: Any) -> str:
    """A value in Hydra's grammar; of a list, range or array, an axis. Raises ConfigError where it has none."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple | range):
        return _inner(name, value)
    if not value:
        raise ConfigError(f"{name}={value}: has no values; give at least one")
    return ",".join(_inner(name, each) for each in value)


def _inner(name: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_inner(name, each) for each in value)}]"
    if isinstance(value, str | Path):
        text = str(value)
        return text if PLAIN.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()
    raise ConfigError(f"{name}={value!r}: is of type {type(value).__name__}; give a number, a text, a list or None")

"""The tables that figures and claims are made of: an experiment's record, or its runs distilled in memory."""

import errno
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from analysis import figures
from analysis.tables import load, records, schema, where
from analysis.tables.records import LAYERS, MissingRecords
from analysis.tables.settings import comparable
from analysis.tables.unread import unread


class Tables:
    """Each table once, of the runs that fulfil the conditions.

    The experiments that figures are named for have records, which fresh runs renew. Where a choice is made (by
    conditions, or along other axes than the experiment's own), and for any other experiment, the runs themselves are
    distilled, and nothing is written. A record stands in for runs that are not there, or fewer than it holds.
    """

    def __init__(self, outputs: Path, conditions: Sequence[where.Condition] = (), say: Callable[[str], None] = print):
        self.outputs, self.conditions, self.say = outputs, conditions, say
        self._tables: dict[tuple[str, tuple[str, ...], tuple[str, ...]], pd.DataFrame] = {}
        self._last: tuple[str, pd.DataFrame | None] = ("", None)

    def get(self, experiment: str, source: str | None = None) -> pd.DataFrame:
        """The experiment's table as the figures of the record `source` (default: its own) need it: along their axes, and of
        layers with the columns that they show. The experiment's name with LAYERS at its end stands for the table of its layers.

        Raises MissingRecords where there is none, NoSuchRuns where no run fulfils the conditions, KeyError where runs
        have not measured what a record needs.
        """
        source = experiment if source is None else source
        axes, kept = shape = figures.axes(source), figures.kept(source)
        key = experiment, *shape
        if key not in self._tables:
            own = shape == (figures.axes(experiment), figures.kept(experiment))
            renewed = experiment in figures.drawn() and own and not self.conditions
            table = (self._renewed if renewed else self._chosen)(experiment, axes, kept)
            self._tables[key] = schema.measurable(table)
        return self._tables[key]

    def whole(self, experiment: str) -> pd.DataFrame:
        """All of its chosen runs, of whatever setting, with all steps; those of a record that has more, with the steps it keeps.

        Raises MissingRecords and NoSuchRuns.
        """
        runs = self._runs(experiment)
        found = self._record(experiment) if self._recorded_more(experiment, runs) else runs
        return schema.measurable(self._selected(found, experiment))

    def from_runs(self, experiment: str) -> bool:
        """Whether `whole` is of the runs themselves."""
        return not self._recorded_more(experiment, self._runs(experiment))

    def unread(self, experiment: str) -> dict[str, int]:
        """How many of its runs have no result that can be read, by their status; nothing where `whole` is of a record."""
        runs = self._runs(experiment)
        if self._recorded_more(experiment, runs):
            return {}
        return unread(records.runs_folder(self.outputs, experiment), set(runs["run_id"]))

    def _recorded_more(self, experiment: str, runs: pd.DataFrame | None) -> bool:
        name = experiment.removesuffix(LAYERS)
        return runs is None or (name in figures.drawn() and runs["run_id"].nunique() < records.size(self.outputs, name))

    def _renewed(self, experiment: str, axes: Sequence[str], kept: Sequence[str]) -> pd.DataFrame:
        runs = self._runs(experiment)
        if runs is not None and (done := records.refresh(self.outputs, experiment, axes, runs, kept)):
            self.say(done)
        return records.read(self.outputs, experiment)

    def _chosen(self, experiment: str, axes: Sequence[str], kept: Sequence[str]) -> pd.DataFrame:
        name, runs = experiment.removesuffix(LAYERS), self._runs(experiment)
        if self._recorded_more(experiment, runs):
            return self._from_record(experiment, axes)
        folder = records.runs_folder(self.outputs, experiment) if experiment.endswith(LAYERS) else None
        table = records.distilled(self._selected(runs, name), axes, folder, kept)
        if table.empty:
            raise MissingRecords(records.no_layers(experiment, where.chosen(self.conditions)))
        return table

    def _record(self, experiment: str) -> pd.DataFrame:
        name = experiment.removesuffix(LAYERS)
        if not (name in figures.drawn() or records.record_path(self.outputs, experiment).exists()):
            folder = records.runs_folder(self.outputs, experiment)
            raise MissingRecords(
                f"{folder}: holds no finished runs"
                if folder.is_dir()
                else f"{folder}: is not there; name a folder of {folder.parent} with finished runs"
            )
        return records.read(self.outputs, experiment)

    def _from_record(self, experiment: str, axes: Sequence[str]) -> pd.DataFrame:
        name, record = experiment.removesuffix(LAYERS), self._record(experiment)
        if self.conditions:  # a record of layers lacks most of the configuration
            whole = record if experiment == name else records.read(self.outputs, name)
            record = record[record["run_id"].isin(self._selected(whole, name)["run_id"])]
            if record.empty:
                raise where.NoSuchRuns(f"the record of the layers of {name} holds none of the chosen runs", whole)
        return pd.concat(comparable(record, axes), ignore_index=True)

    def _runs(self, experiment: str) -> pd.DataFrame | None:
        """What is loaded last is kept, because a table and that of its layers are made from the same runs."""
        name = experiment.removesuffix(LAYERS)
        if self._last[0] != name:
            self._last = name, _loaded(records.runs_folder(self.outputs, name))
        return self._last[1]

    def _selected(self, runs: pd.DataFrame, name: str) -> pd.DataFrame:
        chosen = where.select(runs, self.conditions, name)
        if self.conditions:
            count, of = chosen["run_id"].nunique(), runs["run_id"].nunique()
            self.say(f"{name}: {count} of {of} runs with {' and '.join(map(str, self.conditions))}")
        return chosen


def _loaded(folder: Path) -> pd.DataFrame | None:
    """The runs in a folder; None where there are none, with a warning where what is there is no folder of runs."""
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is no folder")
        return load.load(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        warnings.warn(f"skipped {folder}: {error.strerror}", load.DamagedRun, stacklevel=2)
        return None

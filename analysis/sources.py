"""The tables of an experiment that stand where those of a figure's sources are looked for."""

from collections.abc import Iterator

import pandas as pd

from analysis import figures
from analysis.tables import needs
from analysis.tables.records import LAYERS
from analysis.tables.tables import Tables


def get(what: str, experiment: str, source: str, tables: Tables) -> pd.DataFrame:
    """The experiment's table, where that of `source` is looked for. Raises MissingRecords and NotShown."""
    with needs.missing_columns_told(what, {experiment: None}, tables.outputs, tables.conditions):
        return tables.get(experiment, source)


def gather(name: str, experiment: str | None, tables: Tables) -> Iterator[tuple[str, tuple[str, pd.DataFrame]]]:
    """Each source of the figure, with the experiment whose runs stand there and their table."""
    for source in figures.sources(name):
        ours = experiment + LAYERS * source.endswith(LAYERS) if experiment else source
        yield source, (ours, get(name, ours, source, tables))

"""Whether a figure finds what it needs in its tables, and the sentence that says what is missing and which command makes it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import figures
from analysis.grid import NotShown
from analysis.tables import where
from analysis.tables.records import LAYERS, command, record_path
from analysis.tables.schema import is_measured
from analysis.tables.tables import Tables


class TooFew(NotShown):
    """The runs are right, and do not have enough different values to fill a figure."""


def get(what: str, experiment: str, source: str, tables: Tables) -> pd.DataFrame:
    """The experiment's table, where that of `source` is looked for. Raises MissingRecords and NotShown."""
    with missing_columns_told(what, {experiment: None}, tables.outputs, tables.conditions):
        return tables.get(experiment, source)


@contextmanager
def checked(
    name: str, tables: Mapping[str, pd.DataFrame], outputs: Path, conditions: Sequence[where.Condition] = ()
) -> Iterator[None]:
    """Around what is made of the tables of these experiments for the figure. Raises NotShown where they lack what it needs.

    `conditions`: by which the runs were chosen.
    """
    with missing_columns_told(name, tables, outputs, conditions):
        for experiment, table in tables.items():
            check(name, table, experiment, outputs, conditions)
        yield


def check(
    name: str, table: pd.DataFrame, experiment: str, outputs: Path, conditions: Sequence[where.Condition] = ()
) -> None:
    """Raises TooFew, or KeyError for a column that is not there, unless the table has what the figure needs."""
    [table] = figures.shown(name, [table])
    needs = [need if isinstance(need, tuple) else (need,) for need in figures.trait(name, "NEEDS")]
    for column in (*figures.trait(name, "MEASURED"), *(need.field for need, *others in needs if not others)):
        if table[column].isna().all():
            raise KeyError(column)
    experiment = experiment.removesuffix(LAYERS)
    for alternatives in needs:
        if any(need.field in table and table[need.field].nunique() >= need.least for need in alternatives[1:]):
            continue
        need = alternatives[0]
        values = list(np.sort(table[need.field].dropna().unique()))
        if sum(need.among is None or value in need.among for value in values) >= need.least:
            continue
        wanted = f"{need.least} or more of" if need.among is None else f"{' or '.join(need.among)} as"
        there = f"only {', '.join(map(where.written, values))}" if need.field != "step" else f"{len(values)}"
        raise TooFew(
            f"{name} needs {wanted} {need.field}, and the runs of {experiment}{where.chosen(conditions)} have {there}; "
            f"{_others(conditions)}train others with: {command(outputs, experiment, need.override)}"
        )


@contextmanager
def missing_columns_told(
    what: str,
    tables: Mapping[str, pd.DataFrame | None],
    outputs: Path,
    conditions: Sequence[where.Condition] = (),
) -> Iterator[None]:
    """Turns a KeyError about a column that a table lacks, or that holds nothing, into NotShown; no other.

    `tables` by their experiments; None for one that could not be made. `conditions`: as of `checked`.
    """
    try:
        yield
    except KeyError as error:
        if not (missing := missing_columns(error, list(tables.values()))):
            raise
        records = {name: record_path(outputs, name) for name in tables}
        names = [name.removesuffix(LAYERS) + f" ({path})" * path.exists() for name, path in records.items()]
        raise NotShown(
            f"{what} needs {', '.join(missing)}, which runs of {' and '.join(dict.fromkeys(names))}{where.chosen(conditions)} "
            f"do not have; {_others(conditions)}{_remedy(what, missing, tables, outputs)}"
        ) from error


def missing_columns(error: KeyError, tables: Sequence[pd.DataFrame | None]) -> list[str]:
    """The columns that the error names and one of the tables lacks.

    Empty where the error is about something else: that one is a mistake of ours.
    """
    text = str(error.args[0]) if error.args else ""
    names = re.findall(r"'([^']*)'", text) or [text.removeprefix("Column not found: ")]
    columns = [name for name in names if "/" in name or "." in name or name in ("step", "layer", "balance", "seed")]
    lacks = [name for name in columns if any(t is None or name not in t or t[name].isna().all() for t in tables)]
    return lacks if lacks == columns else []


def _others(conditions: Sequence[where.Condition]) -> str:
    return "choose more of them with --where, or " * bool(conditions)


def _remedy(what: str, missing: Sequence[str], tables: Mapping[str, pd.DataFrame | None], outputs: Path) -> str:
    """What to do about columns that are missing."""
    source = next(iter(tables))
    experiment, known = source.removesuffix(LAYERS), what in figures.NAMES
    own = source in figures.drawn() and not (known and source not in figures.sources(what))
    if not own and any(name.startswith("stability/") for name in missing):
        return f"measure it with: {command(outputs, experiment, 'sharpness.every=10')}"
    if not own and any(name.startswith("change/") for name in missing):
        return f"log it with: {command(outputs, experiment, 'log.layers=true log.directions=true')}"
    if not own and any(name.startswith(_never_measured(tables)) for name in missing):
        return f"LoRA has it: {command(outputs, experiment, 'adapter=lora')}"
    if not own and known and not any(map(is_measured, missing)):  # a field that these runs need not have
        of_figure = figures.sources(what)[0].removesuffix(LAYERS)
        return f"those of {of_figure} have: {command(outputs, of_figure)}"
    if experiment in figures.drawn():
        return f"train them again with: {command(outputs, experiment, 'retrain=missing')}"
    return f"repeat what trained them with retrain=missing: {command(outputs, experiment, '… retrain=missing')}"


def _never_measured(tables: Mapping[str, pd.DataFrame | None]) -> tuple[str, ...]:
    """How columns begin that some of the runs cannot have: not all adapters have factors A and B that train."""
    adapters = {name for t in tables.values() if t is not None and "adapter.name" in t for name in t["adapter.name"]}
    of_factors = () if adapters <= {"lora", "rslora", "dora"} else ("grad/", "param/", "update/")
    return (*of_factors, "feature/", "balance") if "full" in adapters else of_factors

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
from analysis.tables.records import LAYERS, command


@contextmanager
def checked(name: str, tables: Mapping[str, pd.DataFrame], outputs: Path) -> Iterator[None]:
    """Around what is made of the tables of these experiments for the figure. Raises NotShown where they lack what it needs."""
    with missing_columns_told(name, tables, outputs):
        for experiment, table in tables.items():
            check(name, table, experiment, outputs)
        yield


def check(name: str, table: pd.DataFrame, experiment: str, outputs: Path) -> None:
    """Raises NotShown, or KeyError for a column that is not there, unless the table has what the figure needs."""
    for column in figures.trait(name, "MEASURED"):
        if table[column].isna().all():
            raise KeyError(column)
    experiment = experiment.removesuffix(LAYERS)
    for need in figures.trait(name, "NEEDS"):
        values = list(np.sort(table[need.field].dropna().unique()))
        if sum(need.among is None or value in need.among for value in values) >= need.least:
            continue
        wanted = f"{need.least} or more of" if need.among is None else f"{' or '.join(need.among)} as"
        there = f"only {', '.join(map(where.written, values))}" if need.field != "step" else f"{len(values)}"
        raise NotShown(
            f"{name} needs {wanted} {need.field}, and the runs of {experiment} have {there}; train others with: "
            f"{command(outputs, experiment, need.override)}"
        )


@contextmanager
def missing_columns_told(what: str, tables: Mapping[str, pd.DataFrame | None], outputs: Path) -> Iterator[None]:
    """Turns a KeyError about a column that a table lacks, or that holds nothing, into NotShown; no other.

    `tables` by their experiments; None for one that could not be made.
    """
    try:
        yield
    except KeyError as error:
        if not (missing := missing_columns(error, list(tables.values()))):
            raise
        names = list(dict.fromkeys(experiment.removesuffix(LAYERS) for experiment in tables))
        raise NotShown(
            f"{what} needs {', '.join(missing)}, which runs of {' and '.join(names)} do not have; "
            f"{_remedy(what, missing, names[0], outputs)}"
        ) from error


def missing_columns(error: KeyError, tables: Sequence[pd.DataFrame | None]) -> list[str]:
    """The columns that the error names and one of the tables lacks.

    Empty where the error is about something else: that one is a mistake of ours.
    """
    text = str(error.args[0]) if error.args else ""
    names = re.findall(r"'([^']*)'", text) or [text]
    columns = [name for name in names if "/" in name or "." in name or name in ("step", "layer", "balance", "seed")]
    lacks = [name for name in columns if any(t is None or name not in t or t[name].isna().all() for t in tables)]
    return lacks if lacks == columns else []


def _remedy(what: str, missing: Sequence[str], experiment: str, outputs: Path) -> str:
    """What to do about columns that are missing."""
    if any(name.startswith("change/") for name in missing):
        return f"log it with: {command(outputs, experiment, 'log.layers=true log.directions=true')}"
    if any(name.startswith(("grad/", "param/", "update/")) for name in missing):
        return f"LoRA has it: {command(outputs, experiment, 'adapter=lora')}"
    for source in figures.sources(what) if what in figures.NAMES else ():
        if source != experiment:
            return f"those of {source} have: {command(outputs, source.removesuffix(LAYERS))}"
    return f"train them again with: {command(outputs, experiment)}"

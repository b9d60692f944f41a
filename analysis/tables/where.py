"""Runs chosen by fields of their configuration: `--where adapter.rank=8 --where steps=120,300`."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from analysis.grid import NotShown
from analysis.tables.load import per_run

SHOWN = 12  # values that a message names


class NoSuchRuns(NotShown):
    """No run fulfils the conditions; the message says what there is instead. `table`: the runs that were looked at."""

    def __init__(self, message: str, table: pd.DataFrame):
        super().__init__(message)
        self.table = table


@dataclass(frozen=True)
class Condition:
    """A field of the flattened configuration, and the values it may have, as they were written."""

    field: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, argument: str) -> "Condition":
        """From FIELD=VALUE or FIELD=VALUE,VALUE. Raises ValueError where it is neither."""
        field, equals, text = argument.partition("=")
        if not (field.strip() and equals and text.strip()):
            raise ValueError(f"{argument!r} is not FIELD=VALUE, such as adapter.rank=8 or init.name=etf,zero")
        return cls(field.strip(), tuple(value.strip() for value in text.split(",")))

    def __str__(self) -> str:
        return f"{self.field}={','.join(self.values)}"

    def values_for(self, column: pd.Series) -> tuple[str, ...]:
        """The values one by one; or as one, where a field of these runs is that very list."""
        whole = ", ".join(self.values)
        return (whole,) if any(is_written(value, whole) for value in column) else self.values


def argument(field: str, value: Any) -> str:
    """The option that chooses this value, as it is typed in a shell."""
    return f"--where {shlex.quote(f'{field}={written(value)}')}"


def written(value: Any) -> str:
    """A field's value as one types it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def is_written(value: Any, text: str) -> bool:
    """Whether a field's value is the one that is written so: numbers by size, to 6 digits unless they are whole."""
    if written(value) == text:
        return True
    if isinstance(value, str):
        return False
    if value is None or isinstance(value, bool):
        return written(value).lower() == text.lower()
    try:
        number = float(text)
    except ValueError:
        return False
    return number == value if float(value).is_integer() else math.isclose(number, value, rel_tol=1e-5)


def chosen(conditions: Sequence[Condition]) -> str:
    """` with adapter.rank=8 and steps=120`, to follow the word runs; nothing without conditions."""
    return f" with {' and '.join(map(str, conditions))}" if conditions else ""


def select(frame: pd.DataFrame, conditions: Sequence[Condition], name: str) -> pd.DataFrame:
    """The rows of the runs that fulfil all conditions; `name` is the experiment's. Raises NoSuchRuns."""
    if not conditions:
        return frame
    table = per_run(frame)
    kept = pd.Series(True, table.index)
    for condition in conditions:
        column = _field(table, condition.field, name)
        values = condition.values_for(column)
        if wrong := [text for text in values if not any(is_written(value, text) for value in column)]:
            raise NoSuchRuns(
                f"--where {condition}: no run of {name} has {condition.field}={wrong[0]}; there are {_listed(column)}",
                table,
            )
        kept &= column.map(lambda value, values=values: any(is_written(value, text) for text in values)).astype(bool)
    if not kept.any():
        raise NoSuchRuns(f"there is no run of {name}{chosen(conditions)} together", table)
    return frame[frame["run_id"].isin(table.loc[kept, "run_id"])]


def none_anywhere(found: Sequence[NoSuchRuns], conditions: Sequence[Condition]) -> NoSuchRuns:
    """One message for several experiments, of which none has such runs."""
    together = pd.concat([error.table for error in found], ignore_index=True)
    try:
        select(together, conditions, "the experiments")
    except NoSuchRuns as error:
        return error
    return found[0]


def _field(table: pd.DataFrame, field: str, name: str) -> pd.Series:
    """The column of a field, with None for what is missing. Raises NoSuchRuns where there is no such field."""
    fields = [c for c in table.columns if c not in ("run_id", "status") and not c.startswith("summary.")]
    if field not in fields:
        last = {known: known.split(".")[-1] for known in fields}
        alike = get_close_matches(field.split(".")[-1], set(last.values()), n=3, cutoff=0.7)
        near = sorted((known for known in fields if last[known] in alike), key=lambda known: alike.index(last[known]))
        hint = f"did you mean {' or '.join(near[:3])}?" if near else "python -m runner --cfg job shows all fields"
        raise NoSuchRuns(f"--where {field}=…: runs of {name} have no field of that name; {hint}", table)
    return table[field].astype(object).where(table[field].notna(), None)


def _listed(column: pd.Series) -> str:
    """The different values of a field, as one writes them."""
    values = sorted(
        set(column), key=lambda value: (value is None, isinstance(value, str), value if value is not None else 0)
    )
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(map(written, values[:SHOWN])) + more

"""What the page knows of an experiment, as plain data for JSON: its axes, runs, means over seeds, and thinned curves.

A column of texts or numbers with few different values is `values` and, for each run, the `codes` of its own. Numbers have four
significant digits, but those of the configuration all of theirs; null stands for what is not known or not finite.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from analysis import style
from analysis.advice.answers import LR, WATCHING, Mean
from analysis.grid import AXES, log_losses, loss_name
from analysis.page.curves import curves, known, short
from analysis.tables.load import per_run
from analysis.tables.settings import fields
from analysis.tables.where import written

PLAIN = {"task.name": "teacher_student", "adapter.name": "lora", "optimizer.name": "adamw", "optimizer.lr_ratio": 1.0}
CHOICES = ("task.name", "adapter.name", "optimizer.name", "init.name", "task.width")  # come first among the axes


def experiment(name: str, frame: pd.DataFrame, origins: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Of a table with all steps. `origins`: what is known of where each run comes from, in the order of `table_of`."""
    table = table_of(frame)
    axes = axes_of(table)
    table = table.assign(loss=losses(table))
    configured = [column for column in table if not column.startswith("summary.") and column not in ("run_id", "loss")]
    varying = [column for column in configured if table[column].nunique(dropna=False) > 1 or column in (*AXES, *axes)]
    constant = [column for column in configured if column not in varying and table[column].notna().any()]
    loss = listed(table["loss"])
    numbers = {column: listed(table[column]) for column in table if column.startswith("summary.")}
    numbers = {column: values for column, values in numbers.items() if any(map(known, values)) and values != loss}
    return {
        "name": name,
        "loss": loss_of(table),
        "axes": [
            {"field": axis, "default": default} for axis, default in zip(axes, defaults(table, axes), strict=True)
        ],
        "looks": [look(init) for init in coded(table["init.name"])["values"]],
        "shared": {column: written(table[column].iloc[0]) for column in constant},
        "runs": {
            "id": table["run_id"].tolist(),
            "config": {column: coded(table[column]) for column in varying},
            "numbers": {"loss": loss} | numbers,
        },
        "origins": origins and coded_records(origins),
        "cells": cells(table, axes),
        "curves": curves(frame, table["run_id"].tolist(), table["status"].eq("finished").tolist()),
    }


def table_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run, in the order of AXES."""
    return per_run(frame).sort_values([*AXES, "run_id"], kind="stable", ignore_index=True)


def axes_of(table: pd.DataFrame) -> list[str]:
    """The fields that tell the runs apart besides rate and seed; not one that follows from those before it. The init always."""
    names = [name for name in (*fields(table), "init.name", "task.width") if not name.startswith(WATCHING)]
    names.sort(key=lambda name: (CHOICES.index(name) if name in CHOICES else len(CHOICES), name))
    cell, axes = pd.Series(0, table.index), []
    for name in names:
        finer = cell * len(table) + pd.factorize(table[name].map(written))[0]
        finer = pd.Series(pd.factorize(finer)[0], table.index)
        if finer.nunique() > cell.nunique() or name == "init.name":
            axes.append(name)
            cell = finer
    return axes


def defaults(
    table: pd.DataFrame, axes: Sequence[str], about: Mapping[str, Any] = MappingProxyType({})
) -> list[int | None]:
    """The value of each axis to begin with, so that an init has one curve: among runs with what it is `about`, where most inits
    are, then with most that is PLAIN or not used, then of the largest width and most steps. None, for all of them, where one init
    has one curve all the same."""
    codes = pd.DataFrame({axis: coded(table[axis])["codes"] for axis in axes})
    others = [axis for axis in axes if axis != "init.name"]
    if not others:
        return [None]
    fits = pd.Series(True, table.index)
    for axis in others:
        fits &= table[axis].map(written).eq(written(about[axis])) if axis in about else True
    part = codes[fits] if fits.any() else codes
    found = part.assign(one=1).groupby(others).agg(inits=("init.name", "nunique"), runs=("one", "sum")).reset_index()
    found["plain"] = sum(
        [
            found[axis].map(
                [value is None or PLAIN.get(axis) == value for value in coded(table[axis])["values"]].__getitem__
            )
            for axis in others
        ],
        start=pd.Series(0, found.index),
    )
    order = ["inits", "plain", *(axis for axis in ("task.width", "steps") if axis in others), "runs"]
    first = found.sort_values(order, ascending=False, kind="stable").iloc[0]
    chosen = {axis: int(first[axis]) for axis in others}
    for axis in (axis for axis in others if axis != CHOICES[0]):  # losses of two tasks do not compare
        rest = {name: value for name, value in chosen.items() if name != axis}
        shown = codes[(codes[list(rest)] == pd.Series(rest, dtype=int)).all(axis=1)].drop_duplicates()
        if not shown["init.name"].duplicated().any():
            del chosen[axis]
    return [chosen.get(axis) for axis in axes]


def losses(table: pd.DataFrame) -> pd.Series:
    """What the runs of each task are compared by; nan where one diverged."""
    parts = [pd.Series(np.exp(log_losses(part)), part.index) for _, part in by_task(table)]
    return pd.concat(parts).reindex(table.index).where(lambda loss: np.isfinite(loss))


def loss_of(table: pd.DataFrame) -> str:
    """What that is, in words."""
    names = {loss_name(part) for _, part in by_task(table)}
    return f"final {names.pop()}" if len(names) == 1 else "final loss"


def by_task(table: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    return table.groupby("task.name", sort=True)


def cells(table: pd.DataFrame, axes: Sequence[str]) -> list[list[Any]]:
    """A row for each combination of the axes and rate: the axes' codes, the rate, the mean over seeds (of the log, as everywhere)
    with its 95% interval, the number of seeds, and how many diverged, which leaves no mean."""
    codes = pd.DataFrame({axis: coded(table[axis])["codes"] for axis in axes}).assign(
        lr=table[LR], log=np.log(table["loss"]), diverged=table["status"] == "diverged"
    )
    rows = []
    for (*place, lr), part in codes.groupby([*axes, "lr"], sort=True):
        gone = int(part["diverged"].sum())
        mean = Mean.of(part["log"].to_numpy()).exp() if not gone else Mean(np.nan, np.nan, np.nan)
        rows.append([*map(int, place), lr, *map(short, (mean.value, mean.low, mean.high)), len(part), gone])
    return rows


def coded(column: pd.Series) -> dict[str, list[Any]]:
    """A column as its different values, in order, and the place of each row's among them."""
    plain = [
        None if value is None or value != value else getattr(value, "item", lambda v=value: v)() for value in column
    ]
    mixed = len({isinstance(value, str) for value in plain if value is not None}) > 1
    plain = [written(value) if mixed and value is not None else value for value in plain]
    values = sorted(set(plain), key=lambda value: (value is None, value if value is not None else 0))
    place = {value: number for number, value in enumerate(values)}
    return {"values": values, "codes": [place[value] for value in plain]}


def coded_records(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The same of records, in the order in which they come."""
    place: dict[str, int] = {}
    codes = [place.setdefault(repr(record), len(place)) for record in records]
    return {"values": [records[codes.index(number)] for number in range(len(place))], "codes": codes}


def look(init: str) -> dict[str, str]:
    """How an init is drawn everywhere."""
    return {"label": style.look(init).label, "color": style.look(init).color}


def listed(column: pd.Series) -> list[float | None]:
    return [*map(short, column.to_numpy(float))]

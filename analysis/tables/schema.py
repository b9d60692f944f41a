"""What a table of runs must be before anything is made of it: the types and ranges of its columns, and steps that go forward.

Figures and claims rely on it and check none of this again. A column that not every table has is another matter: see `needs`.
"""

import re
from collections.abc import Collection, Mapping
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from runner.config.options import AT_LEAST_0, LARGEST, NOT_NEGATIVE, POSITIVE, SIZE, Allowed, integers

OVERFLOWS = 1e100  # with its square, and that of what it is divided by
MOST_NUMBERS = 2**28  # of a table: 2 GiB, where a small file may claim any size


def of_type(kind: type, allowed: Allowed) -> Allowed:
    """The same, of a value whose type is not known; True and False are no numbers."""
    return Allowed(allowed.text, lambda x: isinstance(x, kind) and not isinstance(x, bool) and allowed.accepts(x))


def beside_gaps(allowed: Allowed) -> Allowed:
    """The same, of an integer that not every run has: in a table with gaps it is a float."""
    whole = of_type(Integral, allowed)
    return Allowed(
        allowed.text,
        lambda x: whole.accepts(x) or (isinstance(x, float) and x.is_integer() and allowed.accepts(x)),
    )


# What run-level columns hold where they are not null. Fields of tasks, adapters and optimizers are declared beside code that
# trains, which is not imported here; the wider range is taken where an older version may have recorded more.
TEXT = of_type(str, Allowed("a text of printable letters", lambda x: x != "" and x.isprintable()))
FINITE = of_type(Real, Allowed("a finite number", isfinite))
RULES = {
    "run_id": TEXT,
    "status": of_type(str, Allowed("finished or diverged", lambda x: x in ("finished", "diverged"))),
    "experiment": TEXT,
    "task.name": TEXT,
    "task.width": of_type(Integral, SIZE),
    "task.out_exponent": FINITE,
    "adapter.name": TEXT,
    "adapter.rank": beside_gaps(SIZE),
    "adapter.alpha": of_type(Real, POSITIVE),
    "init.name": TEXT,
    "optimizer.name": TEXT,
    "optimizer.lr": of_type(Real, POSITIVE),
    "optimizer.lr_ratio": of_type(Real, POSITIVE),
    "steps": of_type(Integral, SIZE),
    "seed": of_type(Integral, AT_LEAST_0),
    "summary.final_loss": of_type(Real, NOT_NEGATIVE),
    "summary.final_eval_loss": of_type(Real, NOT_NEGATIVE),
}
STEP = integers(0, LARGEST)
# Never null, in any table.
NEEDED = ("run_id", "status", "init.name", "task.width", "optimizer.lr", "seed")
# Nor these, of a run in its own folder.
IN_A_FOLDER = ("experiment", "task.name", "adapter.name", "optimizer.name", "steps")
RESULT = "summary.final_loss"  # never null in a run that finished
SIZES = ["train/loss", "eval/loss", "grad/A", "grad/B"]  # never negative
SIZES += ["feature/Z", "feature/Y0", "feature/Z_A", "feature/Z_B", "feature/dZ_B"]
SIZES += [f"feature/delta_{i}" for i in (1, 2, 3)]


def is_measured(column: str) -> bool:
    """Whether a column of a loaded table belongs to a step rather than to a run."""
    return "/" in column or column == "balance"


def measurable(frame: pd.DataFrame) -> pd.DataFrame:
    """With null for measured values that have overflowed, or nearly so: they have no place on an axis."""
    measured = frame[[name for name in frame.columns if is_measured(name)]].astype(float)
    return frame.assign(**measured.where(measured.abs() < OVERFLOWS))


def check_run(row: Mapping[str, Any], needed: Collection[str] = NEEDED) -> None:
    """Raises ValueError unless the run-level columns of a run are there, of their types and within their ranges."""
    if lacking := [column for column in needed if column not in row]:
        raise ValueError(f"it has no {lacking[0]}")
    finished = row["status"] == "finished"
    for column, value in row.items():
        rule = RULES.get(column) or (FINITE if column.startswith("summary.") else None)
        null = value is None or (isinstance(value, float) and np.isnan(value))
        if rule and not null and not rule.accepts(value):
            raise ValueError(f"{column}={_shown(value)} must be {rule.text}")
        if null and (finished if column == RESULT else column in needed):
            raise ValueError(f"{column} has no value")


def _shown(value: Any) -> str:
    """A value in a message: a text in quotes where it is not plain, and not too much of it."""
    text = str(value)
    return (text if re.fullmatch(r"[\w.+-]+", text) else repr(text))[:40]


def check_columns(file: pq.ParquetFile, needed: Collection[str] = ()) -> None:
    """Raises ValueError unless a file of steps has these columns and `step`, each once and of its type, and some rows."""
    names, rows = file.schema_arrow.names, file.metadata.num_rows
    if lacking := [name for name in (*needed, "step") if name not in names]:
        raise ValueError(f"it has no column {lacking[0]}")
    if len(set(names)) < len(names):
        raise ValueError("two of its columns have one name")
    if not 0 < rows * len(names) <= MOST_NUMBERS:
        raise ValueError(f"it claims to hold {rows} rows")
    for field in file.schema_arrow:
        if is_measured(field.name) and not (pa.types.is_floating(field.type) or pa.types.is_null(field.type)):
            raise ValueError(f"{field.name} must be of type double, and is {str(field.type)[:40]}")
        if field.name == "step" and not pa.types.is_integer(field.type):
            raise ValueError(f"step must be {STEP.text}, and is {str(field.type)[:40]}")


def faults(frame: pd.DataFrame) -> dict[str, str]:
    """Run -> what is wrong with its rows, of a table whose runs and columns are right by themselves."""
    step = frame["step"]
    found = {f"step must be {STEP.text}": step.isna() | (step < 0) | (step > LARGEST)}
    if "layer" in frame:
        found["it has a layer twice at one step"] = frame.duplicated(["run_id", "step", "layer"])
    else:
        found["its steps do not go forward"] = step <= step.groupby(frame["run_id"]).shift()
    for name in [name for name in SIZES if name in frame]:
        found[f"{name} is negative"] = frame[name] < 0
    return {run: why for why, where in found.items() if where.any() for run in frame.loc[where, "run_id"].unique()}


def changes(frame: pd.DataFrame) -> dict[str, str]:
    """Run -> which of its run-level columns is not the same in all of its rows."""
    first = frame.drop_duplicates("run_id").set_index("run_id")
    found = {f"it has more than one {name}": frame[name] != frame["run_id"].map(first[name]) for name in NEEDED[1:]}
    return {run: why for why, where in found.items() if where.any() for run in frame.loc[where, "run_id"].unique()}

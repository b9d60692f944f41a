"""Curves of runs as plain data for JSON, thinned, and the step at which runs compare by each."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from analysis.tables.records import EARLY

DIGITS = 4
POINTS = 60  # kept of a curve: the first EARLY, and others evenly up to the last
NEARLY = 0.95  # of the runs that measured a quantity have it at the step by which they compare
# Curves by the panel that shows them, with their names there. Of a column that is not here nothing is kept.
PANELS = {
    "loss": {"train/loss": "training", "eval/loss": "held out"},
    "gradient norms": {
        "grad/A": "‖∂L/∂A‖",
        "grad/B": "‖∂L/∂B‖",
        "grad/m": "‖∂L/∂m‖",
        "grad/d": "‖∂L/∂d‖",
        "grad/b": "‖∂L/∂b‖",
        "grad/W": "‖∂L/∂W‖",
    },
    "feature sizes": {"feature/Z_A": "Z_A = A·Z", "feature/Z_B": "Z_B = s·B·A·Z"},
    "increments of Z_B": {
        "feature/delta_1": "δ1: A moves",
        "feature/delta_2": "δ2: B moves",
        "feature/delta_3": "δ3: both move",
        "feature/dZ_B": "their sum",
    },
    "sharpness": {
        "stability/sharpness": "of the Hessian",
        "stability/preconditioned": "preconditioned",
    },
    "critical rate": {"stability/critical_lr": "lowest rate that raises the loss"},
}


def curves(frame: pd.DataFrame, runs: Sequence[str], finished: Sequence[bool]) -> dict[str, Any]:
    """`steps`: lists of steps; `columns`: for each run the number of its list, and the values there, null where it has none; and
    the `step` by which finished runs compare, null for the last row of each. `last` and `rows`: that row's step, and how many."""
    place = pd.Categorical(frame["run_id"], categories=list(runs)).codes
    order = np.lexsort((frame["step"], place))
    step, bounds = frame["step"].to_numpy()[order], np.searchsorted(place[order], range(len(runs) + 1))
    lists: dict[tuple[int, ...], int] = {}
    columns = {}
    for column in [name for panel in PANELS.values() for name in panel if name in frame]:
        values = frame[column].to_numpy(float)[order]
        there = np.isfinite(values)
        at, y = [], []
        for begin, end in pairwise(bounds):
            rows = begin + np.flatnonzero(there[begin:end])
            rows = rows[thinned(len(rows))]
            at.append(lists.setdefault(tuple(step[rows].tolist()), len(lists)) if len(rows) else None)
            y.append([*map(short, values[rows])] if len(rows) else None)
        if any(map(known, at)):
            columns[column] = {"at": at, "y": y}
    steps, last = [*map(list, lists)], step[bounds[1:] - 1].tolist()
    for column in columns.values():
        at = [None if number is None else steps[number] for number in column["at"]]
        compared = [(there, end) for there, end, done in zip(at, last, finished, strict=True) if there and done]
        column["step"] = shared(compared or [(there, end) for there, end in zip(at, last, strict=True) if there])
    return {"steps": steps, "columns": columns, "last": last, "rows": np.diff(bounds).tolist()}


def shared(runs: Sequence[tuple[Sequence[int], int]]) -> int | None:
    """Of runs, the steps that each has and its last: the latest that NEARLY all have, or else most; None for their last."""
    if sum(steps[-1] == last for steps, last in runs) >= NEARLY * len(runs):
        return None
    counts = Counter(step for steps, _ in runs for step in steps)
    least = min(NEARLY * len(runs), max(counts.values()))
    return max(step for step, count in counts.items() if count >= least)


def thinned(count: int) -> np.ndarray:
    """Which of so many points of a curve are kept."""
    if count <= POINTS:
        return np.arange(count)
    rest = np.round(np.linspace(EARLY, count - 1, POINTS - EARLY)).astype(int)
    return np.concatenate([np.arange(EARLY), rest])


def short(value: float) -> float | int | None:
    """A number with DIGITS significant digits."""
    if not math.isfinite(value):
        return None
    number = float(f"{value:.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 1e6 else number


def known(value: Any) -> bool:
    return value is not None

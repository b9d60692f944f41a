"""What each figure must find in its tables, and the sentence that says what is missing and which command makes it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import figures, where
from analysis.directions import NAMES
from analysis.grid import NotShown, held_out
from analysis.records import CHANGES, LAYER_COLUMNS, LAYERS, command
from analysis.scaling import MIN_WIDTHS


@dataclass(frozen=True)
class Need:
    """At least so many values of a field, and the override that trains them; `among`: only these values count."""

    field: str
    least: int
    override: str
    among: tuple[str, ...] | None = None


TWO_WIDTHS, THREE_WIDTHS = (Need("task.width", least, "task.width=128,256,512") for least in (2, MIN_WIDTHS))
TWO_RATES, OFF_THE_EDGE = (Need("optimizer.lr", least, "optimizer.lr=1e-4,1e-3,1e-2,1e-1") for least in (2, 3))
CURVE = Need("step", 5, "steps=100")
NEEDS = {
    "feature_norms": (CURVE,),
    "gradient_norms": (CURVE,),
    "increments": (CURVE,),
    "lm_dynamics": (CURVE,),
    "lm_layers": (CURVE,),
    "lr_sensitivity": (TWO_RATES,),
    "lm_lr_sensitivity": (TWO_RATES,),
    "lr_vs_width": (TWO_WIDTHS, OFF_THE_EDGE),
    "headline": (TWO_WIDTHS, OFF_THE_EDGE),
    "width_exponents": (THREE_WIDTHS, OFF_THE_EDGE),
    "init_zoo": (Need("init.name", 3, "init=gaussian_A,gaussian_B,pissa"), TWO_RATES),
    "variants": (Need("adapter.name", 2, "adapter=lora,dora"), TWO_RATES),
    "dora_directions": (Need("adapter.name", 1, "adapter=lora,dora log.directions=true", tuple(NAMES)),),
    "lora_plus": (Need("optimizer.lr_ratio", 2, "optimizer.lr_ratio=1,4,16"), TWO_RATES),
    "rank_transfer": (Need("adapter.rank", MIN_WIDTHS, "adapter.rank=2,4,8,16"), TWO_RATES),
}
GRADIENTS, DELTAS = ["grad/A", "grad/B"], [f"feature/delta_{i}" for i in (1, 2, 3)]
COLUMNS = {  # without any value of which there is nothing to draw; what else is missing is found as it is drawn
    "first_step": GRADIENTS,
    "gradient_norms": GRADIENTS,
    "feature_norms": ["feature/Z_A", "feature/Z_B", "train/loss"],
    "increments": DELTAS,
    "lm_dynamics": [*GRADIENTS, "feature/Z_A", *DELTAS],
    "dora_directions": CHANGES,
    "lm_layers": LAYER_COLUMNS,
    "rank_transfer": ["train/loss"],
    "variants": ["summary.trainable_parameters"],
}

BY_HELD_OUT = ("lm_dynamics", "lm_lr_sensitivity")


@contextmanager
def checked(name: str, tables: Mapping[str, pd.DataFrame], outputs: Path) -> Iterator[None]:
    """Around what is made of the tables of these experiments for the figure. Raises NotShown where they lack what it needs."""
    with missing_columns_told(name, tables, outputs):
        for experiment, table in tables.items():
            check(name, table, experiment, outputs)
        yield


def check(name: str, table: pd.DataFrame, experiment: str, outputs: Path) -> None:
    """Raises NotShown, or KeyError for a column that is not there, unless the table has what the figure needs."""
    if name in BY_HELD_OUT:
        held_out(table)
    for column in COLUMNS.get(name, ()):
        if table[column].isna().all():
            raise KeyError(column)
    experiment = experiment.removesuffix(LAYERS)
    for need in NEEDS.get(name, ()):
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

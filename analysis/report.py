"""Claims and flags of whatever has tables, as a table for the terminal and for files."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import (
    claims,
    claims_bases,
    claims_full,
    claims_magnitude,
    claims_remedies,
    claims_rotation,
    claims_stability,
    claims_transfer,
    claims_variants,
    files,
)
from analysis.claims import Claim
from analysis.figures import sharpness_vs_lr
from analysis.grid import Grid, NotShown, split
from analysis.tables.needs import missing_columns_told
from analysis.tables.records import LAYERS
from analysis.tables.settings import without_baseline
from analysis.tables.where import Condition

Evaluate = Callable[..., list[Claim]]  # of a table, or of several
ANY = "any"  # stands for an experiment of no figure: what these say may apply to any runs, and they know when it does
CLAIMS: dict[str | tuple[str, ...], tuple[Evaluate, ...]] = {
    ANY: (claims.first_step, claims.dynamics, claims_transfer.transfer, claims_full.full_finetuning),
    "first_step": (claims.first_step,),
    "lr_vs_width": (claims.dynamics, claims_transfer.transfer),
    "width_exponents": (claims.dynamics, claims_transfer.transfer),
    "lm_lr_sensitivity": (claims.first_step, claims.dynamics, claims_transfer.transfer, claims_full.full_finetuning),
    "lm_mup": (claims.first_step, claims.dynamics, claims_transfer.transfer),
    "init_zoo": (claims_variants.inits,),
    "variants": (claims_variants.parameters,),
    "remedies": (claims_remedies.remedies,),
    "rotation": (claims_rotation.rotation,),
    "magnitude": (claims_magnitude.magnitude,),
    "variants.layers": (claims_variants.dora,),
    "lora_plus": (claims_variants.lora_plus,),
    "rank_transfer": (claims_variants.ranks, claims_transfer.transfer),
    "horizon_transfer": (claims_transfer.transfer,),
    "full_finetuning": (claims_full.full_finetuning,),
    ("coordinate_check.layers", "coordinate_check"): (claims_bases.frozen_sizes,),
    ("lm_mup.layers", "lm_mup"): (claims_bases.frozen_sizes,),
    sharpness_vs_lr.RECORDS: (claims_stability.stability,),
    "advise_smollm2": (claims.at_one_width, claims_transfer.transfer),
    "advise_minilm": (claims.at_one_width,),
}
WITH_BASELINE = (claims_full.full_finetuning,)  # all others are of adapters
START, END = "<!-- claims: written by `python -m analysis --publish` -->", "<!-- end of claims -->"


def claims_of(
    tables: Mapping[str, pd.DataFrame],
    outputs: Path,
    conditions: Sequence[Condition] = (),
    say: Callable[[str], None] | None = None,
) -> list[Claim]:
    """The claims of each experiment on the table that stands for it; one on the same table, or the same ones, is made once.

    `conditions`: by which the runs were chosen. What a table does not let be evaluated is told to `say`. Raises NotShown for it
    where there is none to tell.
    """
    rows: list[Claim] = []
    done: set[tuple[str | int, ...]] = set()
    for experiment, evaluate in ((e, f) for e, functions in CLAIMS.items() for f in functions):
        names = [experiment] if isinstance(experiment, str) else experiment
        of = {id(tables[name]): (name, tables[name]) for name in names if name in tables}  # one may stand for several
        if names[0] not in tables or (key := (evaluate.__name__, *of)) in done:
            continue
        if (
            len(names) > 1 and names[0].removesuffix(LAYERS) not in tables
        ):  # of layers, which are judged with their runs
            continue
        done.add(key)
        try:
            named = {name_of(table, name): table for name, table in of.values()}
            with missing_columns_told(f"claim {evaluate.__name__}", named, outputs, conditions):
                rows += evaluate(*(t if evaluate in WITH_BASELINE else without_baseline(t) for _, t in of.values()))
        except NotShown as reason:
            if say is None:
                raise
            say(f"not evaluated: {reason}")
    return list({repr(row): row for row in rows}.values())  # tables of the same runs may give the same


def name_of(table: pd.DataFrame, default: str) -> str:
    """The experiment whose runs a table holds."""
    return str(table["experiment"].iloc[0]) if "experiment" in table else default


def flags(frame: pd.DataFrame, axes: Sequence[str] = ()) -> list[str]:
    """One sentence for each best learning rate at the edge of its grid, in each part of the sweep."""
    if "optimizer.lr_ratio" in axes:  # a grid of two rates, whose corners are to be seen: its claim speaks of its edges
        return []
    axes = [axis for axis in axes if axis in frame]
    return [sentence for values, part in split(frame, axes).items() for sentence in _flags(part, axes, values)]


def _flags(frame: pd.DataFrame, axes: Sequence[str], values: tuple) -> list[str]:
    grid, task = Grid.of(frame), frame["task.name"].iloc[0]
    if len(grid.lrs) == 1:  # nothing to choose between
        return []
    sentences = []
    told = [
        (axis, value) for axis, value in zip(axes, values, strict=True) if axis != "task.name" and not pd.isna(value)
    ]
    of_part = "".join(f", {axis}={value}" for axis, value in told)
    for init, width in itertools.product(grid.inits, grid.widths):
        best, where = grid.best(init, width), f"{task}, {init}, n = {width}{of_part}"
        if best.edge and np.isnan(best.grid_lr):
            sentences.append(f"{where}: no learning rate at which all seeds finished; extend the grid downwards")
        elif best.edge:
            sentences.append(
                f"{where}: the best lr {best.grid_lr:.3g} is at the edge of its grid and is not used; widen the grid"
            )
    return sentences


def markdown(rows: list[Claim]) -> str:
    """The claims table in Markdown."""
    return claims.table(rows).to_markdown(index=False)


def has_markers(path: Path) -> bool:
    """Whether it is a file of text with both markers, once each and in their order."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    return text.count(START) == text.count(END) == 1 and text.index(START) < text.index(END)


def put_between(path: Path, start: str, end: str, table: str) -> None:
    """Replace what stands between two markers of a file."""
    before, rest = path.read_text().split(start)
    _, after = rest.split(end)
    with files.written(path) as new:
        new.write_text(f"{before}{start}\n\n{table}\n\n{end}{after}")

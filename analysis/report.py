"""Claims and flags of everything that has records, as a table for the terminal, a file and the README."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import claims, claims_variants
from analysis.claims import Claim
from analysis.grid import Grid, split
from analysis.records import MissingRecords, read

JUDGES = {
    "first_step": (claims.first_step,),
    "lr_vs_width": (claims.dynamics,),
    "width_exponents": (claims.dynamics,),
    "lm_lr_sensitivity": (claims.first_step, claims.dynamics),
    "init_zoo": (claims_variants.zoo,),
    "variants": (claims_variants.parameters,),
    "variants.layers": (claims_variants.dora,),
    "lora_plus": (claims_variants.lora_plus,),
    "rank_transfer": (claims_variants.ranks,),
}
START, END = "<!-- claims: written by `python -m analysis --readme` -->", "<!-- end of claims -->"


def all_claims(outputs: Path) -> list[Claim]:
    """Every claim whose records exist."""
    rows: list[Claim] = []
    for experiment, judges in JUDGES.items():
        try:
            frame = read(outputs, experiment)
        except MissingRecords:
            continue
        rows += [claim for judge in judges for claim in judge(frame)]
    return rows


def flags(frame: pd.DataFrame, axes: Sequence[str] = ()) -> list[str]:
    """One sentence for each best learning rate at the edge of its grid, in each part of the sweep."""
    if (
        "optimizer.lr_ratio" in axes
    ):  # a grid of two rates, whose corners are there to be seen: edges are flagged with its claim
        return []
    return [sentence for values, part in split(frame, axes).items() for sentence in _flags(part, axes, values)]


def _flags(frame: pd.DataFrame, axes: Sequence[str], values: tuple) -> list[str]:
    grid, task = Grid.of(frame), frame["task.name"].iloc[0]
    if len(grid.lrs) == 1:  # nothing to choose between
        return []
    sentences = []
    of_part = "".join(f", {axis}={value}" for axis, value in zip(axes, values, strict=True) if axis != "task.name")
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


def put_between(path: Path, start: str, end: str, table: str) -> None:
    """Replace what stands between two markers of a file."""
    before, rest = path.read_text().split(start)
    _, after = rest.split(end)
    path.write_text(f"{before}{start}\n\n{table}\n\n{end}{after}")

"""Claims and flags of everything that has records, as a table for the terminal, a file and the README."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import claims
from analysis.claims import Claim
from analysis.grid import Grid
from analysis.records import MissingRecords, read

JUDGES = {
    "first_step": (claims.first_step,),
    "lr_vs_width": (claims.dynamics,),
    "width_exponents": (claims.dynamics,),
    "lm_lr_sensitivity": (claims.first_step, claims.dynamics),
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


def flags(frame: pd.DataFrame) -> list[str]:
    """One sentence for each best learning rate at the edge of its grid."""
    grid, task = Grid.of(frame), frame["task.name"].iloc[0]
    if len(grid.lrs) == 1:  # nothing to choose between
        return []
    sentences = []
    for init, width in itertools.product(grid.inits, grid.widths):
        best, where = grid.best(init, width), f"{task}, {init}, n = {width}"
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

"""How far the factor that starts at random has left the span in which it was drawn."""

import numpy as np
import pandas as pd

from analysis import theory
from analysis.grid import Grid, NotShown
from analysis.scaling import sizes

OVERLAPS = {"A": "subspace/A_start", "B": "subspace/B_start"}  # with its start, of the factor that starts at random
RANK, INTRUDERS = "spectrum/entropy_rank", "spectrum/intruders"


def rotations(frame: pd.DataFrame) -> Grid:
    """The runs of the families of Init[A] and Init[B], and of each at its end: the share of its start's span that the random
    factor has left, 1 minus the overlap, the entropy rank of B·A, and the intruder dimensions, nan in records without them.
    Raises NotShown, and Mixture."""
    side = frame["init.name"].map(theory.FAMILY)
    if not side.notna().any():
        raise NotShown(f"rotation is of {', '.join(theory.FAMILY)}, and there are no runs of these")
    overlap = np.where(side == "A", frame[OVERLAPS["A"]], frame[OVERLAPS["B"]])
    table = frame.assign(left=1 - overlap)[side.notna()]
    finished = table[table["status"] == "finished"].sort_values("step")
    last = finished.reindex(columns=["run_id", "left", RANK, INTRUDERS]).groupby("run_id").last()
    return Grid.of(table, last)


def left(grid: Grid, init: str) -> np.ndarray:
    """(W,) log of the share that has left, at the best rate of every width."""
    return sizes(grid, init, "left")


def entropy_rank(grid: Grid, init: str) -> np.ndarray:
    """(W,) log of the entropy rank, likewise."""
    return sizes(grid, init, RANK)


def intruders(grid: Grid, init: str) -> np.ndarray:
    """(W,) mean over seeds of the intruder dimensions of a layer, at the grid's best rate of every width; nan at its edge."""
    bests, counts = [grid.best(init, width) for width in grid.widths], grid.columns[INTRUDERS][grid.inits.index(init)]
    means = [of[grid.lrs == best.grid_lr].mean() for of, best in zip(counts, bests, strict=True) if not best.edge]
    found = np.full(len(bests), np.nan)
    found[[not best.edge for best in bests]] = means
    return found


def predicted(task: str, init: str) -> float | None:
    """Exponent in n of that share: Adam moves an entry by the rate, so it is the square of the best rate over the size of the
    factor's entries, n^-1/2 of A and 1 of B, as long as that is small."""
    rate = theory.exponent(task, init, "lr")
    return None if rate is None else 2 * (rate + (0.5 if theory.FAMILY[init] == "A" else 0))

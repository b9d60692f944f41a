"""Critical rates of the first steps, beside the rates at which runs break down and those that suit them best.

A run's critical rate is the geometric mean over steps 1 to 5 of how far an update can be stretched before the loss rises above
where it is, at the lowest rate that its init was trained at there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.breakdown import breaking_bounds
from analysis.claims import subject
from analysis.grid import BY_HELD_OUT, Grid, NotShown
from analysis.scaling import START, best_lrs
from analysis.tables.records import LOOKED
from analysis.tables.settings import parametrizations

FIRST = (1, 5)  # steps
CRITICAL, SHARPNESS = LOOKED, "stability/sharpness"
PLACE = ["init.name", "task.width"]


@dataclass(frozen=True)
class Cell:
    """An init at a width of a subject; logs of rates, means over seeds: the critical one, the least and the most that the one may
    be at which runs begin to break down, which may be infinite, and the best one, nan at the edge of the grid."""

    subject: str
    init: str
    width: int
    critical: float
    breaks_from: float
    breaks_to: float
    best: float

    @property
    def breakdown(self) -> float:
        """nan where only bounds are known."""
        return self.breaks_from if self.breaks_from == self.breaks_to else np.nan

    def within(self, factor: float) -> bool | None:
        """Whether the critical rate is that of breakdown, up to a factor; None where the bounds do not tell."""
        below, above = self.breaks_from - self.critical, self.breaks_to - self.critical
        if below > np.log(factor) or above < -np.log(factor):
            return False
        return True if below >= -np.log(factor) and above <= np.log(factor) else None


def parts(frames: Sequence[pd.DataFrame]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Subjects of these tables, and their runs: a task, a model, or one pretrained in another way."""
    for frame in frames:
        for _, part in frame.groupby([frame["task.name"], parametrizations(frame)]):
            yield subject(part), part


def first_steps(part: pd.DataFrame, column: str) -> pd.Series:
    """Log of the geometric mean of a measured column over the first steps, by init, width and seed. Raises KeyError."""
    lowest = part["optimizer.lr"] == part.groupby(PLACE)["optimizer.lr"].transform("min")
    rows = part[lowest & part["step"].between(*FIRST)]
    with np.errstate(divide="ignore"):
        values = np.log(rows[column])  # -inf where an update does not go down at all
    return values.groupby([rows[name] for name in (*PLACE, "seed")]).mean().dropna()


def measured(frames: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Subject -> the first of its runs whose sharpness was measured in the first steps. Raises NotShown where there are none."""
    found: dict[str, pd.DataFrame] = {}
    for name, part in parts(frames):
        if CRITICAL in part and part.loc[part["step"].between(*FIRST), CRITICAL].notna().any():
            found.setdefault(name, part)
    if not found:
        raise NotShown(
            f"no run has measured its sharpness in steps {FIRST[0]} to {FIRST[1]}; train some with sharpness.every=1"
        )
    return found


def trained(frames: Sequence[pd.DataFrame]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Subjects, and their runs at several rates."""
    return ((name, part) for name, part in parts(frames) if part["optimizer.lr"].nunique() > 1)


def cells(frames: Sequence[pd.DataFrame]) -> list[Cell]:
    """All inits and widths whose critical rate is known, and which were trained at several rates; the first table that has one
    speaks for it. Raises NotShown where no sharpness was measured."""
    critical = {
        (name, *place): values.mean()
        for name, part in measured(frames).items()
        for place, values in first_steps(part, CRITICAL).groupby(PLACE)
    }
    found: dict[tuple[str, str, int], Cell] = {}
    for name, part in trained(frames):
        grid = Grid.of(part, _start(part))
        for init in grid.inits:
            bounds, best = [of.mean(1) for of in breaking_bounds(grid, init)], best_lrs(grid, init)
            for i, width in enumerate(grid.widths.tolist()):
                if (key := (name, init, width)) in critical and key not in found and grid.tried(init, width).any():
                    found[key] = Cell(*key, critical[key], *(of[i] for of in bounds), best[i])
    return list(found.values())


def _start(part: pd.DataFrame) -> pd.DataFrame | None:
    """What a run's held-out loss began at, by which its breaking down is known."""
    if part["task.name"].iloc[0] not in BY_HELD_OUT:
        return None
    return part[part["step"] == 0].set_index("run_id")[["eval/loss"]].set_axis([START], axis=1)

"""A sweep over init × width × lr × seed as arrays, and its best learning rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.between import interpolated
from analysis.samples import Best, Drawn, Samples
from analysis.tables.load import per_run
from runner.config.identity import NOT_IDENTITY
from runner.core.optimum import logs

# Where a step sees few of the data, its loss is noise, and runs are compared by their held-out loss.
BY_HELD_OUT = ("language_model", "classification")
AXES = ("init.name", "task.width", "optimizer.lr", "seed")
PLACES = tuple(name for name in NOT_IDENTITY if name != "experiment")  # where and how runs were made, on one machine


def split(frame: pd.DataFrame, axes: Sequence[str]) -> dict[tuple, pd.DataFrame]:
    """The parts of a sweep that differ along further axes than AXES, by their values there; one part without a name for none."""
    if not axes:
        return {(): frame}
    # In the order of their values.
    return {tuple(values): part for values, part in frame.groupby(list(axes), dropna=False)}


def placed(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The same table, of runs that all have a value in these columns. Raises NotShown."""
    for column in columns:
        if (lacking := table[column].isna()).any():
            raise NotShown(
                f"{table['experiment'].iloc[0]}: run {table['run_id'][lacking].iloc[0]} has no {column}, by which this figure "
                "tells runs apart; choose others with --where FIELD=VALUE"
            )
    return table


def held_out(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table, of runs that are compared by their held-out loss. Raises NotShown."""
    task = frame["task.name"].iloc[0]
    if task not in BY_HELD_OUT:
        raise NotShown(
            f"{frame['experiment'].iloc[0]}: runs of {task} are compared by the loss that they minimize, and this figure is of "
            f"{' and '.join(BY_HELD_OUT)}; draw another one, or choose with --where task.name={BY_HELD_OUT[0]} if there are some"
        )
    return frame


def objective(frame: pd.DataFrame) -> str:
    """The column by which the runs of a table are compared."""
    by_held_out = frame["task.name"].iloc[0] in BY_HELD_OUT
    return "summary.final_eval_loss" if by_held_out else "summary.final_loss"


def log_losses(table: pd.DataFrame) -> np.ndarray:
    """(R,) log of what the runs of a table are compared by, a row each; +inf where a run diverged, nan where it is unknown."""
    return np.where(table["status"] == "diverged", np.inf, logs(table[objective(table)].to_numpy(float)))


def loss_name(frame: pd.DataFrame) -> str:
    """What `objective` is of."""
    return "held-out loss" if "eval" in objective(frame) else "training loss"


def is_setting(column: str) -> bool:
    """Whether a run-level column says how a run was configured, besides AXES and where it ran."""
    return column not in (*AXES, "run_id", "status", "experiment") and not column.startswith(("summary.", *PLACES))


class NotShown(Exception):
    """Records that a figure cannot show; the message says why."""


class Mixture(NotShown):
    """Several runs for one place of a grid; the message names what they differ in."""

    def __init__(self, runs: pd.DataFrame):
        settings = [name for name in runs.columns if is_setting(name)]
        first = runs.groupby(list(AXES)).nunique(dropna=False)[settings].max()
        varying = ", ".join(first.index[first > 1]) or "nothing that is recorded"
        super().__init__(
            f"{runs['experiment'].iloc[0]}: runs of one init, width, learning rate and seed differ in {varying}, and this figure "
            "shows a single setting; choose one with --where FIELD=VALUE"
        )


@dataclass(frozen=True)
class Grid:
    """Arrays over (init, width, lr, seed), which stay as they are. nan: no such run; for losses, +inf: the run diverged.

    `columns` holds other quantities in the same layout, nan where they were not measured. A bootstrap sample is the one of this
    `number` among those that were made with it, which share what they find.
    """

    inits: list[str]
    widths: np.ndarray
    lrs: np.ndarray
    seeds: np.ndarray
    log_loss: np.ndarray
    columns: Mapping[str, np.ndarray]
    # Of a grid whose arrays are replaced they are not those of the sample that it was.
    shared: Samples | None = field(default=None, init=False, repr=False, compare=False)
    number: int = field(default=0, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: pd.DataFrame | None = None) -> "Grid":
        """From a loaded table; `columns` is indexed by run_id and gives further quantities, one row per run.

        Raises Mixture.
        """
        table = per_run(frame)
        twice = table.duplicated(list(AXES), keep=False)
        if twice.any():
            raise Mixture(table[twice])
        axes = [sorted(table[name].unique()) for name in AXES]
        shape = tuple(map(len, axes))
        place = tuple(pd.Categorical(table[name], axis).codes for name, axis in zip(AXES, axes, strict=True))

        def spread(values: np.ndarray) -> np.ndarray:
            array = np.full(shape, np.nan)
            array[place] = values
            return array

        extra = {} if columns is None else {name: spread(columns[name].reindex(table["run_id"])) for name in columns}
        return cls(axes[0], *map(np.array, axes[1:]), spread(log_losses(table)), extra)

    @classmethod
    def along(cls, frame: pd.DataFrame, column: str, columns: pd.DataFrame | None = None) -> "Grid":
        """With the values of another column, such as the rank, in the place of the widths. Raises NotShown, and Mixture."""
        if frame["task.width"].nunique() > 1:
            widths = sorted(frame["task.width"].unique())
            raise NotShown(
                f"runs at widths {', '.join(map(str, widths))}, where this figure shows {column} at one; choose it with: "
                f"--where task.width={widths[-1]}"
            )
        return cls.of(placed(frame, [column]).assign(**{"task.width": frame[column]}), columns)

    def resamples(self, draws: np.ndarray) -> list["Grid"]:
        """The same grid with the seeds at each of these positions (R, S), with repetition: bootstrap samples. They are made once,
        so that all statistics of a grid find the same best rates."""
        key = draws.tobytes()
        if key not in self._resamples:
            shared = Samples(self.lrs, self.log_loss, self.columns, draws)
            self._resamples[key] = [self._with(draw, shared, number) for number, draw in enumerate(draws)]
        return self._resamples[key]

    def _with(self, seeds: np.ndarray, shared: Samples, number: int) -> "Grid":
        own = self.seeds[seeds], self.log_loss[..., seeds], Drawn(self.columns, seeds)
        sample = Grid(self.inits, self.widths, self.lrs, *own)
        for name, value in (("shared", shared), ("number", number)):
            object.__setattr__(sample, name, value)
        return sample

    @cached_property
    def _resamples(self) -> dict[bytes, list["Grid"]]:
        return {}

    @cached_property
    def _means(self) -> Samples:
        return self.shared or Samples(self.lrs, self.log_loss, self.columns, np.arange(len(self.seeds))[None])

    def at(self, init: str, width: int) -> tuple[int, int]:
        """Where they stand in the arrays. Raises ValueError if they do not."""
        return self.inits.index(init), self.widths.tolist().index(width)

    def scores(self, init: str, width: int) -> np.ndarray:
        """(L,) mean over seeds of log final loss; +inf where a seed diverged, nan where a seed is missing."""
        return self._means.scores(self.at(init, width))[self.number]

    def tried(self, init: str, width: int) -> np.ndarray:
        """(L,) whether any seed was trained at the rate."""
        return ~np.isnan(self.log_loss[self.at(init, width)]).all(axis=1)

    def best(self, init: str, width: int) -> Best:
        """See `samples.bests`."""
        return self._means.bests(self.at(init, width))[self.number]

    def value(self, column: str, init: str, width: int, lr: float) -> float:
        """Mean over seeds of log(column) at learning rate `lr`, linear in log lr between the grid's neighbours.

        nan where `lr` is, or lies outside the grid, or a run it needs is missing or has no such value above zero.
        """
        tried = self.tried(init, width)  # other inits may have other rates
        means = self._means.of(column, self.at(init, width))[self.number]
        return interpolated(np.log(lr), np.log(self.lrs[tried]), means[tried])

    def paired(self, init: str, other: str, width: int) -> np.ndarray:
        """(S,) log final loss of `init` minus that of `other`, seed by seed, each at the grid's best learning rate.

        nan where either best learning rate lies at the edge of the grid.
        """
        return self._at_best(init, width) - self._at_best(other, width)

    def _at_best(self, init: str, width: int) -> np.ndarray:
        best = self.best(init, width)
        if best.edge:
            return np.full(len(self.seeds), np.nan)
        return self.log_loss[self.at(init, width)][np.flatnonzero(self.lrs == best.grid_lr)[0]]

"""Best learning rates and means over seeds, of many bootstrap samples of a grid at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.between import vertex


@dataclass(frozen=True)
class Best:
    """The best learning rate of one init at one width.

    `lr` from a local quadratic, `grid_lr` the best of the grid, `log_loss` there (mean over seeds of log final loss);
    `edge`: the best lies at an end of the grid (both, if it has one rate), so the true one may lie outside and `lr` must not be
    trusted.
    """

    lr: float
    grid_lr: float
    log_loss: float
    edge: bool


class Drawn(Mapping):
    """Columns with the seeds at these positions, each made when it is asked for: a bootstrap has thousands of samples."""

    def __init__(self, columns: Mapping[str, np.ndarray], seeds: np.ndarray):
        self.columns, self.seeds = columns, seeds

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name][..., self.seeds]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


class Samples:
    """Means over the seeds at positions `draws` (R, S), for all R samples at once, and their best rates; found once a place.

    `log_loss` and `columns` are a grid's, arrays over (init, width, lr, seed); a place is (init, width).
    """

    def __init__(self, lrs: np.ndarray, log_loss: np.ndarray, columns: Mapping[str, np.ndarray], draws: np.ndarray):
        self.lrs, self.log_loss, self.columns, self.draws = lrs, log_loss, columns, draws
        self._scores: dict[tuple[int, int], np.ndarray] = {}
        self._bests: dict[tuple[int, int], list[Best]] = {}
        self._means: dict[tuple[str, int, int], np.ndarray] = {}

    def scores(self, place: tuple[int, int]) -> np.ndarray:
        """(R, L) mean over seeds of log final loss; +inf where a seed diverged, nan where a seed is missing."""
        if place not in self._scores:
            self._scores[place] = self._mean(self.log_loss[place])
        return self._scores[place]

    def bests(self, place: tuple[int, int]) -> list[Best]:
        if place not in self._bests:
            self._bests[place] = bests(self.lrs, self.scores(place))
        return self._bests[place]

    def of(self, column: str, place: tuple[int, int]) -> np.ndarray:
        """(R, L) mean over seeds of log(column); not finite where a seed has no value above zero."""
        key = column, *place
        if key not in self._means:
            with np.errstate(divide="ignore", invalid="ignore"):
                self._means[key] = self._mean(np.log(self.columns[column][place]))
        return self._means[key]

    def _mean(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return values[:, self.draws].mean(axis=-1).T  # (L, R, S)


def bests(lrs: np.ndarray, scores: np.ndarray) -> list[Best]:
    """Of each sample, given its scores (R, L).

    The vertex of the parabola through the best learning rate of the grid and its neighbours, in log lr. Where a neighbour
    diverged there is no parabola and the grid's best stands. Only three points enter, because the loss is not a parabola further
    out: towards large lr it ends in a cliff.
    """
    missing = np.isnan(scores)
    order = np.argsort(missing, axis=1, kind="stable")  # those that were run come first, in their order
    run, rates = np.take_along_axis(scores, order, 1), lrs[order]
    place = np.where(np.isnan(run), np.inf, run).argmin(1)
    edge = (place == 0) | (place == (~missing).sum(1) - 1)
    rows = np.arange(len(run))
    grid_lrs, losses = rates[rows, place], run[rows, place]
    found, inside = grid_lrs.copy(), rows[np.isfinite(losses) & ~edge]
    around = inside[:, None], place[inside, None] + np.arange(-1, 2)
    found[inside] = vertex(np.log(rates[around]), run[around])
    none = Best(np.nan, np.nan, np.nan, edge=True)
    each = zip(found.tolist(), grid_lrs.tolist(), losses.tolist(), edge.tolist(), strict=True)
    return [Best(*best) if np.isfinite(best[2]) else none for best in each]

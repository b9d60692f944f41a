"""The best learning rate of a size that was not trained: carried over from smaller ones by a power law, and what that costs.

A size is the width n, the rank r or the number of steps T. Grids hold it in the place of the width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import theory
from analysis.between import interpolated
from analysis.grid import BY_HELD_OUT, Grid
from analysis.scaling import BEGIN, Estimate, best_lrs, bootstrap, learning_lrs, rank_grids

SIZES = {"task.width": "n", "adapter.rank": "r", "steps": "T"}
LEAST = 2  # sizes to carry over from: of fewer there is no slope
FIT, THEORY, SAME = "fit", "theory", "same"
RULES = {FIT: "our fit", THEORY: "the theory's exponent", SAME: "the same rate"}


@dataclass(frozen=True)
class Sweep:
    """A sweep over one size. `powers`: init -> the exponent that theory predicts for the best rate, None where it does not.

    `measure`: (W,) log best rates of an init, nan where there is none to go by.
    """

    symbol: str
    what: str
    grid: Grid
    powers: Mapping[str, float | None]
    measure: Callable[[Grid, str], np.ndarray] = best_lrs


def sweeps(frame: pd.DataFrame) -> list[Sweep]:
    """Those over more than LEAST sizes in a table of one task, with the loss before training as a column; of ranks, one for each
    way to scale the product, where ranks that hardly learn do not count."""
    varying = [name for name in SIZES if name in frame and frame[name].nunique() > LEAST]
    if len(varying) != 1:
        return []
    [name] = varying
    if name == "adapter.rank":
        found = [
            Sweep(
                "r", f"rank, s = r^{power:g}" if power else "rank, s = 1", grid, _rank_powers(grid, power), learning_lrs
            )
            for power, grid in rank_grids(frame).items()
        ]
        return [sweep for sweep in found if len(sweep.grid.widths) > LEAST]
    loss = "eval/loss" if frame["task.name"].iloc[0] in BY_HELD_OUT else "train/loss"
    begin = frame[frame["step"] == 0].set_index("run_id")[[loss]].set_axis([BEGIN], axis=1)
    if name == "steps":
        return [Sweep("T", "steps", Grid.along(frame, "steps", begin), {})]
    grid = Grid.of(frame, begin)
    return [Sweep("n", "width", grid, theory.exponents(theory.setting(frame), grid.inits, "lr"))]


def _rank_powers(grid: Grid, power: float) -> dict[str, float | None]:
    return {init: theory.RANK_POWERS.get((theory.FAMILY.get(init), power)) for init in grid.inits}


def carried(lrs: np.ndarray, sizes: np.ndarray, size: float, rule: str, power: float | None = None) -> float:
    """Log of the rate for this size, from the log best rates (W,) of others, nan where there is none; nan below LEAST.

    FIT: on the least-squares line of log best rate against log size. THEORY: on the line with the slope `power` that is nearest
    to them. SAME: that of the largest.
    """
    logs, known = np.log(sizes), np.isfinite(lrs)
    if known.sum() < LEAST:
        return np.nan
    if rule == FIT:
        return float(np.polyval(np.polyfit(logs[known], lrs[known], 1), np.log(size)))
    if rule == SAME:
        return float(lrs[known][-1])
    return np.nan if power is None else float(np.mean(lrs[known] - power * logs[known]) + power * np.log(size))


def slope_of(lrs: np.ndarray, sizes: np.ndarray) -> float:
    """The exponent of the least-squares line through log best rates (W,); nan below LEAST of them."""
    known = np.isfinite(lrs)
    return float(np.polyfit(np.log(sizes[known]), lrs[known], 1)[0]) if known.sum() >= LEAST else np.nan


def regrets_at(sweep: Sweep, grid: Grid, init: str) -> np.ndarray:
    """(rules,) what the rate costs that is carried over from the smaller sizes to the largest: how much higher it ends than at
    that size's own best rate, as a share of what training gains there. Between rates of the grid log loss is a line, for both.

    1, all of it, where some seed diverges at the rate or beside it, or it ends above the start; nan where the rate was not tried,
    or the best lies at the edge. `grid`: the sweep's, or a sample of it.
    """
    size, lrs, power = grid.widths[-1], sweep.measure(grid, init), sweep.powers.get(init)
    scores = grid.scores(init, size)
    known = ~np.isnan(scores)
    tried, scores = np.log(grid.lrs[known]), scores[known]
    if not np.isfinite(lrs[-1]):
        return np.full(len(RULES), np.nan)
    begins = np.log(grid.columns[BEGIN][grid.at(init, size)])
    begin = float(np.exp(np.nanmean(begins))) if np.isfinite(begins).any() else np.nan
    best = float(np.exp(interpolated(lrs[-1], tried, scores)))

    def regret(rule: str) -> float:
        lr = carried(lrs[:-1], grid.widths[:-1], size, rule, power)
        if not begin > best or np.isnan(lr) or not tried[0] <= lr <= tried[-1]:
            return np.nan
        there = interpolated(lr, tried, scores)
        return 1.0 if np.isnan(there) else min(1.0, (float(np.exp(there)) - best) / (begin - best))

    return np.array([regret(rule) for rule in RULES])


def regrets(sweep: Sweep, init: str) -> list[Estimate]:
    """Of each rule, for an init."""
    return bootstrap(sweep.grid, lambda grid: regrets_at(sweep, grid, init))


def mean_regrets(sweep: Sweep) -> list[Estimate]:
    """In the mean over the inits: of FIT, of FIT minus THEORY, and of FIT minus SAME."""

    def statistic(grid: Grid) -> np.ndarray:
        fit, by_theory, same = np.mean([regrets_at(sweep, grid, init) for init in grid.inits], axis=0)
        return np.array([fit, fit - by_theory, fit - same])

    return bootstrap(sweep.grid, statistic)

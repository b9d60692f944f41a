"""Claim 14: the best learning rate of LoRA over that of full finetuning, at every width and every rank."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import theory
from analysis.claims import DIRECTION, NOT, REPRODUCED, UNKNOWN, Claim, exponent_verdict
from analysis.grid import Grid
from analysis.scaling import MIN_WIDTHS, Estimate, best_lrs, bootstrap, exponent
from analysis.tables.settings import is_full

SOURCE = "LoRA Without Regret, 2025"
RATIO, ABOUT = 10, 2  # what is said there of alpha = 32, and the factor to either side that "about" is taken for
ALPHA = 32


@dataclass(frozen=True)
class Comparison:
    """LoRA and full finetuning along a size, the width n or the rank r, which the grid holds in the place of the width."""

    symbol: str
    grid: Grid
    full: str
    setting: str
    alpha: float

    def inits(self) -> list[str]:
        """One of either family, of those with runs at MIN_WIDTHS sizes or more."""
        sizes = (~np.isnan(self.grid.log_loss)).any(axis=(2, 3)).sum(axis=1)
        enough = [init for init, count in zip(self.grid.inits, sizes, strict=True) if count >= MIN_WIDTHS]
        of_family = [next((init for init in enough if theory.FAMILY.get(init) == side), None) for side in "AB"]
        return [init for init in of_family if init is not None]


def full_finetuning(frame: pd.DataFrame) -> list[Claim]:
    """None of a table without full finetuning, or without enough sizes."""
    claims = [claim for found in beside_full(frame) for claim in _claims(frame["task.name"].iloc[0], found)]
    return sorted(claims, key=lambda claim: claim.number)


def beside_full(frame: pd.DataFrame) -> Iterator[Comparison]:
    """One for each alpha and rank at all widths, and for each alpha and width at all ranks."""
    if not is_full(frame).any():
        return
    full, lora = frame[is_full(frame)], frame[frame["adapter.name"] == "lora"]
    if lora.empty or not theory.speaks_of(lora):
        return
    for symbol, size, other in (("n", "task.width", "adapter.rank"), ("r", "adapter.rank", "task.width")):
        for (alpha, value), part in lora.groupby(["adapter.alpha", other]):
            sizes = sorted(part[size].unique())
            if symbol == "n":
                beside = full[full["task.width"].isin(sizes)]
            else:  # full finetuning has no rank: it is the same beside each
                of_width = full[full["task.width"] == value]
                copies = [of_width.assign(**{size: r, "run_id": of_width["run_id"] + f"-{r}"}) for r in sizes]
                beside = pd.concat(copies)
            if len(sizes) < MIN_WIDTHS or beside.empty:
                continue
            whole = pd.concat([part, beside])
            grid = Grid.of(whole.assign(**{"task.width": whole[size].astype(int)}))
            at = f"r = {value:g}" if symbol == "n" else f"n = {value:g}"
            yield Comparison(symbol, grid, beside["init.name"].iloc[0], f"s = {alpha:g}/r, {at}", float(alpha))


def ratios(comparison: Comparison, init: str) -> list[Estimate]:
    """Log of the best rate over full finetuning's, at every size; then the exponent in the size."""

    def values(grid: Grid) -> np.ndarray:
        both = log_ratio(grid, init, full=comparison.full)
        return np.append(both, exponent(grid.widths, both))

    return bootstrap(comparison.grid, values)


def log_ratio(grid: Grid, init: str, full: str) -> np.ndarray:
    return best_lrs(grid, init) - best_lrs(grid, full)


def _claims(task: str, comparison: Comparison) -> list[Claim]:
    found, symbol = [], comparison.symbol
    for init in comparison.inits():
        side = theory.FAMILY[init]
        *at, slope = ratios(comparison, init)
        what = f"best lr, Init[{side}] over full finetuning ({comparison.setting})"
        if side == "A" and comparison.alpha == ALPHA:
            text = f"{what}, at every {symbol}; here {comparison.grid.widths[-1]}"
            found.append(Claim.of("14a", task, text, f"about {RATIO}", SOURCE, at[-1].exp(), about(at)))
        if (side, symbol) in theory.FULL_POWERS:
            power, other = theory.FULL_POWERS[side, symbol]
            number = "14b" if symbol == "r" else {"A": "14c", "B": "14d"}[side]
            verdict = exponent_verdict(slope, power, other)
            text, prediction = f"{what}, against {symbol}", f"{symbol}^{power:g}"
            found.append(Claim.of(number, task, text, prediction, theory.MUA, slope, verdict))
    return found


def about(ratios: list[Estimate], predicted: float = RATIO) -> str:
    """*Reproduced* if every interval lies within a factor ABOUT of what is predicted, *direction only* if every value does."""
    values = np.array([[ratio.value, ratio.low, ratio.high] for ratio in ratios]) - np.log(predicted)
    if np.isnan(values).any():
        return UNKNOWN
    within = np.abs(values) <= np.log(ABOUT)
    return REPRODUCED if within.all() else DIRECTION if within[:, 0].all() else NOT

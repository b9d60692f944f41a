"""Claim 15: what the first steps' sharpness says of the rates at which runs break down, and of those that suit them best."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from analysis import critical, theory
from analysis.claims import DIRECTION, NOT, REPRODUCED, UNKNOWN, Claim, ratio_claim
from analysis.claims_full import about
from analysis.claims_variants import TUNED
from analysis.grid import Grid
from analysis.scaling import LEVEL, MIN_SEEDS, Estimate, PerSeed, best_lrs, bootstrap

SOURCE = "this project"
FACTOR, SHARE = (
    2,
    0.9,
)  # the critical rate is that at which runs break down, up to this factor in this share of the cells
MIN_CELLS = 5
DEFAULT, PISSA = "kaiming_A", "pissa"


def stability(*frames: pd.DataFrame) -> list[Claim]:
    """Of runs whose sharpness was measured, and those at several rates, in the same table or in others."""
    claims = []
    cells, measured = critical.cells(frames), critical.measured(frames)
    for name, part in measured.items():
        known = [cell for cell in cells if cell.subject == name and np.isfinite(cell.breakdown)]
        claims += [_foretold(name, known)] if known else []
        claims += _pair(name, part)
        claims += _pissa(name, part, [runs for of, runs in critical.trained(frames) if of == name])
    return claims


def _foretold(name: str, cells: list[critical.Cell]) -> Claim:
    found = binomtest(sum(critical.within(cell, FACTOR) for cell in cells), len(cells))
    low, high = found.proportion_ci(LEVEL)
    share = found.statistic
    verdict = REPRODUCED if low >= SHARE else DIRECTION if share >= SHARE else NOT
    text = (
        f"critical rate of the first steps within a factor of {FACTOR} of the rate of breakdown, of {len(cells)} cells"
    )
    verdict = verdict if len(cells) >= MIN_CELLS else UNKNOWN
    return Claim("15a", name, text, f"≥ {SHARE:g}", SOURCE, share, low, high, verdict)


def _pair(name: str, part: pd.DataFrame) -> list[Claim]:
    """Init[A] against Init[B]."""
    rates = critical.first_steps(part, critical.CRITICAL)
    inits = rates.index.unique("init.name")
    pair = [next((init for init in inits if theory.FAMILY.get(init) == side), None) for side in "AB"]
    if None in pair:
        return []
    a, b = (rates[init].unstack("task.width") for init in pair)  # (seeds, widths)
    widths = a.columns.intersection(b.columns)
    if widths.empty:
        return []
    ratios = _over_seeds(a[widths] - b[widths])
    text = f"critical rate of the first steps, Init[A] over Init[B], at every n; here {widths.max()}"
    return [ratio_claim("15b", name, text, "> 1", ratios, SOURCE)]


def _pissa(name: str, part: pd.DataFrame, trained: list[pd.DataFrame]) -> list[Claim]:
    """PiSSA against PEFT's default: its sharpness, and whether its best rate is lower by as much."""
    sharpness = critical.first_steps(part, critical.SHARPNESS)
    if not {PISSA, DEFAULT} <= set(sharpness.index.unique("init.name")):
        return []
    ratio = (sharpness[PISSA] - sharpness[DEFAULT]).unstack("task.width")
    [sharper] = _over_seeds(ratio.iloc[:, :1])
    claims = [_about("15c", name, "top eigenvalue of the first steps, PiSSA over PEFT's default", 10, sharper)]
    for runs in trained:
        if {PISSA, DEFAULT} <= set(runs["init.name"]):
            grid = Grid.of(runs, _of_runs(runs, sharpness))
            [product] = bootstrap(grid, _best_rate_times_sharpness)
            text = "best lr times top eigenvalue of the first steps, PiSSA over PEFT's default"
            claims.append(_about("15d", name, text, 1, product))
    return claims


def _best_rate_times_sharpness(grid: Grid) -> np.ndarray:
    values = [
        best_lrs(grid, init)[:1] + np.nanmax(grid.columns[critical.SHARPNESS][grid.inits.index(init), 0], axis=0).mean()
        for init in (PISSA, DEFAULT)
    ]
    return values[0] - values[1]


def _of_runs(runs: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """What is known of an init, width and seed, for each run of these."""
    first = runs.drop_duplicates("run_id")
    places = pd.MultiIndex.from_frame(first[[*critical.PLACE, "seed"]])
    return pd.DataFrame({critical.SHARPNESS: values.reindex(places).to_numpy()}, index=first["run_id"])


def _over_seeds(values: pd.DataFrame) -> list[Estimate]:
    """Means (columns) over the seeds that have all, with intervals."""
    values = values.dropna()
    if len(values) < MIN_SEEDS:
        return [Estimate(float(mean), np.nan, np.nan) for mean in values.mean()]
    return bootstrap(PerSeed(values.to_numpy()), lambda seeds: seeds.values.mean(0))


def _about(number: str, name: str, text: str, ratio: float, log: Estimate) -> Claim:
    value, low, high = np.exp([log.value, log.low, log.high])
    return Claim(number, name, text, f"about {ratio}", TUNED, value, low, high, about([log], ratio))

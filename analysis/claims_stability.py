"""Claim 15: what the first steps' sharpness says of the rates at which runs break down, and of those that suit them best."""

import numpy as np
import pandas as pd

from analysis import critical, theory
from analysis.claims import DIRECTION, NOT, REPRODUCED, UNKNOWN, Claim, ratio_claim
from analysis.claims_full import about
from analysis.claims_variants import TUNED
from analysis.grid import Grid
from analysis.scaling import LEVEL, MIN_SEEDS, Estimate, PerSeed, best_lrs, bootstrap

SOURCE = "this project"
FACTOR = 2  # up to which the critical rate is that at which runs break down,
SHARE = 0.9  # in this share of the cells
MIN_CELLS = 5
DEFAULT, PISSA = "kaiming_A", "pissa"


def stability(*frames: pd.DataFrame) -> list[Claim]:
    """Of runs whose sharpness was measured, and those at several rates, in the same table or in others."""
    claims = []
    cells, measured = critical.cells(frames), critical.measured(frames)
    for name, part in measured.items():
        hits = [cell.within(FACTOR) for cell in cells if cell.subject == name]
        claims += [_foretold(name, hits.count(True), hits.count(False), hits.count(None))] if hits else []
        claims += _pair(name, part)
        claims += _pissa(
            name, part, next((runs for of, runs in critical.trained(frames) if of == name and _has_both(runs)), None)
        )
    return claims


def _foretold(name: str, hits: int, misses: int, unknown: int) -> Claim:
    """Judged as it would be if all unknown cells were hits, and if none were; the interval is from the one's low to the other's
    high end."""
    cells = hits + misses + unknown
    low, high = _interval(hits, cells)[0], _interval(hits + unknown, cells)[1]
    verdicts = {_share_verdict(count, cells) for count in (hits, hits + unknown)}
    verdict = verdicts.pop() if len(verdicts) == 1 and cells >= MIN_CELLS else UNKNOWN
    text = f"critical rate of the first steps within a factor of {FACTOR} of the rate of breakdown, of {cells} cells"
    text += f" ({unknown} unknown)" * bool(unknown)
    share = hits / (hits + misses) if hits + misses else np.nan
    return Claim("15a", name, text, f"≥ {SHARE:g}", SOURCE, share, low, high, verdict)


def _interval(count: int, cells: int) -> tuple[float, float]:
    """Exact binomial (Clopper, Pearson)."""
    from scipy.stats import binomtest  # to load it takes two seconds, and nothing else needs it

    return tuple(binomtest(count, cells).proportion_ci(LEVEL))


def _share_verdict(count: int, cells: int) -> str:
    if _interval(count, cells)[0] >= SHARE:
        return REPRODUCED
    return DIRECTION if count / cells >= SHARE else NOT


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


def _has_both(runs: pd.DataFrame) -> bool:
    return {PISSA, DEFAULT} <= set(runs["init.name"])


def _pissa(name: str, part: pd.DataFrame, runs: pd.DataFrame | None) -> list[Claim]:
    """PiSSA against PEFT's default: its sharpness, and whether its best rate is lower by as much."""
    sharpness = critical.first_steps(part, critical.SHARPNESS)
    if not {PISSA, DEFAULT} <= set(sharpness.index.unique("init.name")):
        return []
    ratio = (sharpness[PISSA] - sharpness[DEFAULT]).unstack("task.width")
    [sharper] = _over_seeds(ratio.iloc[:, :1])
    claims = [_about("15c", name, "top eigenvalue of the first steps, PiSSA over PEFT's default", 10, sharper)]
    if runs is not None:
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
    return Claim.of(number, name, text, f"about {ratio}", TUNED, log.exp(), about([log], ratio))

"""Claim 16: whether frozen features have one size at every width, as the theory takes them to have."""

import numpy as np
import pandas as pd

from analysis.claims import Claim, exponent_verdict, subject
from analysis.coordinates import FROZEN, kinds
from analysis.scaling import Estimate, PerSeed, bootstrap, exponent

SOURCE = "Yang et al. 2022"
OTHER = 0.5  # an exponent of the theory's, from which 0 must be told


def frozen_sizes(layers: pd.DataFrame, runs: pd.DataFrame) -> list[Claim]:
    """Of the kind of layer whose frozen output W0·Z depends most on the width."""
    found = exponents(layers)
    if not found:
        return []
    kind, slope = max(found.items(), key=lambda each: abs(each[1].value))
    text = f"size of W0·Z in frozen layers, of {len(found)} kinds the one that depends most on n ({kind})"
    verdict = exponent_verdict(slope, 0.0, float(np.copysign(OTHER, slope.value)))
    return [Claim.of("16", subject(runs), text, "n^0", SOURCE, slope, verdict)]


def exponents(layers: pd.DataFrame) -> dict[str, Estimate]:
    """Kind of layer -> exponent in the width of its frozen output's size, with an interval over seeds; none of fewer than 3
    widths that all seeds have."""
    found = {}
    for kind, sizes in frozen_outputs(layers).items():
        logs = sizes.dropna(axis=1)  # the same widths for all seeds
        slopes = np.array([exponent(logs.columns.to_numpy(), of_seed) for of_seed in logs.to_numpy()])
        if np.isfinite(slopes).all():
            found[kind] = bootstrap(PerSeed(slopes), lambda seeds: np.array([seeds.values.mean()]))[0]
    return found


def frozen_outputs(layers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Kind of layer -> logs (seeds, widths) of the size of W0·Z, the geometric mean over its layers, from the first to the last.
    Raises KeyError where it was not measured."""
    first = layers[layers["step"] == 0].drop_duplicates(["seed", "task.width", "layer"])
    names = first["layer"].map(kinds(first["layer"].unique()))
    logs = np.log(first[FROZEN]).groupby([first["seed"], first["task.width"], names], sort=False).mean()
    return {kind: logs.xs(kind, level="layer").unstack("task.width").sort_index(axis=1) for kind in names.unique()}

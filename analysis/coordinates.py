"""The coordinate check (Yang et al. 2022, muP): how large is what an adapter does beside what its layer does without it, and does
that stay so as models widen?

Sizes are relative: s·B·A·Z and its increments over the frozen layer's output W0·Z; A·Z, and W0·Z itself, over the input Z.
Layers of one kind, such as all q_proj of a model, count as one, by the geometric mean over its blocks. Along a rule lr ∝ n^p a
size has an exponent in n; those of s·B·A·Z over W0·Z and of W0·Z over Z add up to that of s·B·A·Z over Z.

Verdicts, on the 95% interval of that exponent:
- *stable* if it holds 0, or lies within 0.05 (NEGLIGIBLE) of it, and reaches neither 1/2 nor -1/2: the two rules are 1/2 apart;
- *grows with width* or *vanishes with width* if it lies on one side of 0 otherwise;
- *not enough data* in all other cases: it holds both 0 and 1/2 (or -1/2), or there is none, of fewer than 3 widths or 5 seeds, or
  where the learning rates at which every run finished do not span the rules.

Intervals are over seeds. Where these share a base, as language models of one width do, what is particular to it is not in them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.between import ROUNDING, interpolated
from analysis.claims import NEGLIGIBLE, UNKNOWN
from analysis.grid import Grid
from analysis.scaling import Estimate, PerSeed, bootstrap, exponent

INPUT, FROZEN = "feature/Z", "feature/Y0"
SIZES = {
    "feature/Z_B": FROZEN,
    "feature/dZ_B": FROZEN,
    "feature/Z_A": INPUT,
    FROZEN: INPUT,
}  # and what each is relative to
RULES = (-0.5, -1.0)  # exponents of lr in n: those of the theory for Init[A] and Init[B]
BETWEEN = 0.5  # by which they differ
STABLE, GROWS, VANISHES = "stable", "grows with width", "vanishes with width"


def verdict(slope: Estimate) -> str:
    """On the exponent of a size in the width; by the rules above."""
    low, high = slope.low, slope.high
    if np.isnan([low, high]).any():
        return UNKNOWN
    if low <= 0 <= high or max(-low, high) <= NEGLIGIBLE:
        return STABLE if max(-low, high) < BETWEEN else UNKNOWN
    return GROWS if low > 0 else VANISHES


def kinds(layers: Sequence[str]) -> dict[str, str]:
    """Layer -> its kind: the end of its name, without the numbers of blocks, that is long enough to tell kinds apart.

    `model.layers.0.self_attn.q_proj` -> `q_proj`; `h.0.attn.c_proj` -> `attn.c_proj`, where there is `h.0.mlp.c_proj`, too.
    """
    parts = {layer: [part for part in layer.split(".") if not part.isdigit()] for layer in layers}
    known = {tuple(names) for names in parts.values()}

    def short(names: list[str]) -> str:
        ends = (names[-length:] for length in range(1, len(names) + 1))
        own = (end for end in ends if sum(list(other[-len(end) :]) == end for other in known) == 1)
        return ".".join(next(own, names))

    return {layer: short(names) for layer, names in parts.items()}


def by_kind(layers: pd.DataFrame) -> pd.DataFrame:
    """A row a run, step and kind of layer: geometric means of the relative SIZES over the layers of the kind.

    nan where a size is zero or was not measured in one of them, as an increment at the last step is not.
    """
    sizes = pd.DataFrame({size: layers[size] / layers[base] for size, base in SIZES.items()})
    logs, names = np.log(sizes.where((sizes > 0) & np.isfinite(sizes))), kinds(layers["layer"].unique())
    of_run = [name for name in ("run_id", "init.name", "task.width", "optimizer.lr", "seed", "step") if name in layers]
    keys = [*(layers[name] for name in of_run), layers["layer"].map(names).rename("kind")]
    groups = logs.groupby(keys, sort=False)
    return np.exp(groups.mean().where(groups.count().eq(groups.size(), axis=0))).reset_index()


def grid(table: pd.DataFrame, runs: pd.DataFrame) -> Grid:
    """The sweep, with a column for each size and kind of `by_kind`: at the last step, and of increments at the last update."""
    last = table.sort_values("step").groupby(["run_id", "kind"], sort=False)[list(SIZES)].last()
    return Grid.of(runs, last.unstack("kind"))


def rates(g: Grid, init: str, power: float) -> np.ndarray:
    """(W,) logs of learning rates along lr ∝ n^power.

    At the narrowest width it is the middle one of those from which all RULES stay among the rates at which every run finished;
    nan where there is none.
    """
    finished = np.isfinite(g.log_loss[g.inits.index(init)]).all(axis=(0, 2))
    lrs, widening = np.log(g.lrs[finished]), np.log(g.widths / g.widths[0])
    starts = lrs[lrs + min(RULES) * widening[-1] >= lrs.min(initial=np.inf) - ROUNDING]
    return power * widening + (starts[(len(starts) - 1) // 2] if len(starts) else np.nan)


def slopes(g: Grid, init: str, power: float) -> dict[tuple[str, str], Estimate]:
    """(size, kind) -> its exponent in the width along lr ∝ n^power, with the bootstrap interval over seeds.

    Between two rates of the grid a log size is linear in log lr, and the exponent is a mean over seeds, each with its own.
    """
    lrs, i = rates(g, init, power), g.inits.index(init)
    found = {}
    for name, values in g.columns.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(values[i])  # (W, L, S)
        at = np.array([[interpolated(x, np.log(g.lrs), y) for y in of.T] for x, of in zip(lrs, logs, strict=True)])
        known = np.isfinite(at).all(axis=1)  # the same widths for all seeds
        per_seed = np.array([exponent(g.widths[known], of_seed[known]) for of_seed in at.T])
        found[name] = bootstrap(PerSeed(per_seed), lambda seeds: np.array([seeds.values.mean()]))[0]
    return found

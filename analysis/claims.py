"""The claims: what theory and papers predict, what was measured, and a verdict by rules that look at nothing else.

Rules, in one place:
- an exponent is *reproduced* if it lies within half the distance to the other init's prediction and its interval excludes
  that other prediction. It is *direction only* if its whole interval lies more than 0.05 on the predicted side of 0 (where
  0 is predicted: on the side away from the other init's prediction). Otherwise, an interval that holds both predictions is
  *not enough data*, as are fewer than 3 widths with a best learning rate off the grid's edge. For an exponent in the rank,
  the nearest other exponent that is predicted for any scale stands in for the other init's (of two as near, that on the
  measured side), and ranks at which not a tenth of the loss is learned are left out.
- what inits differ by is the spread of their best rates and losses beyond what the seeds' noise alone would give.
- a best rate at the edge of its grid is no best rate, and neither is a best ratio of two rates; a resample's best ratio at the
  edge stands as the bound that it is. Intervals count resamples without a value as lying beyond either end.
- a comparison is *reproduced* if its interval lies on the predicted side (at every width, where it is made per width),
  *direction only* if only its value does.
- an exact statement is *reproduced* if it holds in every run; where it fails in none, but is not known of some, there is
  *not enough data*.
- a run breaks down if it diverges; one that is compared by its held-out loss also if it ends above where it began, which
  is worse than not to train at all. A run that is missing is evidence for nothing: which rate breaks down first is not known
  where one below it was not tried, nor which of two inits does, where both do at the lowest rate or neither at the highest.
- fewer than 5 seeds are *not enough data*; all else is *not reproduced*.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis import theory
from analysis.breakdown import breakdown_ratio, breaking_ratio
from analysis.grid import BY_HELD_OUT, Grid
from analysis.scaling import START, Estimate, best_lrs, bootstrap, exponent, features, sizes
from analysis.tables.settings import parametrizations

REPRODUCED, DIRECTION, NOT, UNKNOWN = "reproduced", "direction only", "not reproduced", "not enough data"
NEGLIGIBLE = 0.05  # an exponent this small is a factor of 1.15 over four doublings of the width


@dataclass(frozen=True)
class Claim:
    """One row of the table. `prediction` and `measured` are text; `value`, `low`, `high` the number behind them."""

    number: str
    task: str
    claim: str
    prediction: str
    source: str
    value: float
    low: float
    high: float
    verdict: str

    @classmethod
    def of(
        cls, number: str, task: str, text: str, prediction: str, source: str, found: Estimate, verdict: str
    ) -> "Claim":
        """With an estimate as it is shown."""
        return cls(number, task, text, prediction, source, found.value, found.low, found.high, verdict)

    @property
    def measured(self) -> str:
        if np.isnan(self.value):
            return "–"
        interval = "" if np.isnan(self.low) else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{interval}"


def exponent_verdict(estimate: Estimate, predicted: float, alternative: float) -> str:
    """Verdict on a measured exponent, given its prediction and the other init's."""
    if np.isnan([estimate.value, estimate.low, estimate.high]).any():
        return UNKNOWN
    low, high = estimate.low, estimate.high
    if abs(estimate.value - predicted) <= abs(predicted - alternative) / 2 and not low <= alternative <= high:
        return REPRODUCED
    side = np.sign(predicted) or -np.sign(alternative)
    if min(side * low, side * high) > NEGLIGIBLE:
        return DIRECTION
    return UNKNOWN if low <= min(predicted, alternative) and max(predicted, alternative) <= high else NOT


def sign_verdict(estimates: list[Estimate], positive: bool) -> str:
    """Verdict on comparisons (logs of ratios, differences) that are all predicted to be above, or below, zero."""
    sign = 1 if positive else -1
    values = np.array([sign * e.value for e in estimates])
    bounds = np.array([min(sign * e.low, sign * e.high) for e in estimates])
    if not len(values) or np.isnan([values, bounds]).any():
        return UNKNOWN
    if (bounds > 0).all():
        return REPRODUCED
    return DIRECTION if (values > 0).all() else NOT


def identity_claim(number: str, task: str, text: str, held: pd.Series, known: pd.Series) -> Claim:
    """A claim on an exact statement, given whether it held in each run, where that is known; `value` is the share of these."""
    verdict = NOT if (known & ~held).any() else REPRODUCED if known.all() else UNKNOWN
    return Claim(number, task, text, "all runs (1)", "algebra", held[known].mean(), np.nan, np.nan, verdict)


def first_step(frame: pd.DataFrame) -> list[Claim]:
    """Claim 1: which factor receives a gradient at the first step."""
    start = frame[frame["step"] == 0]
    A, B = start["grad/A"], start["grad/B"]
    family, known, task = start["init.name"].map(theory.FAMILY), A.notna() & B.notna(), subject(frame)
    cases = [
        ("1a", family == "A", (A == 0) & (B > 0), "Init[A], first step: ∂L/∂A = 0 and ∂L/∂B ≠ 0"),
        ("1b", family == "B", (A > 0) & (B == 0), "Init[B], first step: ∂L/∂A ≠ 0 and ∂L/∂B = 0"),
        ("1c", start["init.name"] == "zero", (A == 0) & (B == 0), "A = 0 and B = 0: no gradient at all"),
    ]
    return [
        identity_claim(number, task, text, holds[which], known[which])
        for number, which, holds, text in cases
        if which.any()
    ]


def dynamics(frame: pd.DataFrame) -> list[Claim]:
    """Claims 2 to 7 on one sweep over init × width × lr × seed; none where the theory does not speak about it."""
    setting, pair, task = theory.setting(frame), _pair(frame), subject(frame)
    if setting is None or pair is None:
        return []
    grid, (a, b) = _with_features(frame), pair

    def exponents(number: str, what: str, quantity: str, measure: Callable[[Grid, str], np.ndarray]) -> list[Claim]:
        slopes = bootstrap(grid, lambda g: np.array([exponent(g.widths, measure(g, init)) for init in pair]))
        powers = [theory.exponent(setting, init, quantity) for init in pair]
        return [
            exponent_claim(f"{number}a", f"Init[A]: {what}", slopes[0], powers[0], alternative=powers[1]),
            exponent_claim(f"{number}b", f"Init[B]: {what}", slopes[1], powers[1], alternative=powers[0]),
        ]

    def exponent_claim(number: str, text: str, slope: Estimate, predicted: float, alternative: float) -> Claim:
        verdict, source = exponent_verdict(slope, predicted, alternative), theory.SOURCES[setting]
        return Claim.of(number, task, text, f"n^{predicted:g}", source, slope, verdict)

    growth = bootstrap(grid, lambda g: np.array([exponent(g.widths, best_lrs(g, a) - best_lrs(g, b))]))[0]
    gap = theory.exponent(setting, a, "lr") - theory.exponent(setting, b, "lr")
    final_Z_A = partial(sizes, column="final/feature/Z_A")
    edge = bootstrap(grid, lambda g: np.array([breakdown_ratio(g, a, b)]))[0]
    rate, loss = _tuned(grid, pair, task)
    return [
        rate,
        exponent_claim("2b", "that ratio grows with n", growth, gap, alternative=0.0),
        *exponents("3", "best lr falls with n", "lr", best_lrs),
        loss,
        *exponents("5", "size of Z_A at the end of training", "feature/Z_A", final_Z_A),
        *exponents("6", "δ2/δ1 a few steps in", theory.RATIO, partial(sizes, column=theory.RATIO)),
        _breakdown(grid, task, edge),
    ]


def at_one_width(frame: pd.DataFrame) -> list[Claim]:
    """Claims 2a, 4 and 7, which need no second width, on the longest training of a real model by both inits. Where rates were
    searched, inits are tried at different ones: 7 is of `breaking_ratio`."""
    lengths = [part for _, part in frame.groupby("steps") if _pair(part)]
    if not lengths or not theory.speaks_of(lengths[-1]):
        return []
    frame, pair, model = lengths[-1], _pair(lengths[-1]), subject(lengths[-1])
    grid = _with_features(frame)
    edge = bootstrap(grid, lambda g: np.array([breaking_ratio(g, *pair)]))[0]
    return [*_tuned(grid, pair, model), _breakdown(grid, model, edge)]


def subject(frame: pd.DataFrame) -> str:
    """What claims are on: the task, with how its model was made where that is not the standard, or, of a real model that pip
    installs, which has a version, the model."""
    model, version, _ = str(frame["task.model"].iloc[0] if "task.model" in frame else "").partition("@")
    return (
        model
        if version
        else ", ".join(filter(None, (str(frame["task.name"].iloc[0]), parametrizations(frame).iloc[0])))
    )


def _pair(frame: pd.DataFrame) -> list[str] | None:
    """An Init[A] and an Init[B]; None where one is missing."""
    inits = sorted(frame["init.name"].unique())
    pair = [next((init for init in inits if theory.FAMILY.get(init) == side), None) for side in "AB"]
    return None if None in pair else pair


def _with_features(frame: pd.DataFrame) -> Grid:
    columns = features(frame)
    if frame["task.name"].iloc[0] not in BY_HELD_OUT:
        columns = columns.drop(columns=START, errors="ignore")
    return Grid.of(frame, columns)


def _tuned(grid: Grid, pair: list[str], of: str) -> list[Claim]:
    """Claims 2a and 4."""
    a, b = pair
    widest = grid.widths[-1]
    ratios = bootstrap(grid, lambda g: best_lrs(g, a) - best_lrs(g, b))
    losses = bootstrap(grid, lambda g: np.array([g.paired(a, b, width).mean() for width in g.widths]))
    every = f"every n; here {widest}" if len(grid.widths) > 1 else f"n = {widest}"
    return [
        ratio_claim("2a", of, f"best lr, Init[A] over Init[B], at n = {widest}", "> 1", ratios[-1:]),
        ratio_claim("4", of, f"best loss, Init[A] over Init[B], at {every}", "< 1", losses),
    ]


def _breakdown(grid: Grid, of: str, ratio: Estimate) -> Claim:
    breaks_down = "diverges" if START not in grid.columns else "diverges or ends above the start"
    return ratio_claim("7", of, f"lowest lr that {breaks_down}, Init[A] over Init[B]", "> 1", [ratio])


def ratio_claim(
    number: str, task: str, text: str, prediction: str, ratios: list[Estimate], source: str = theory.PAPER
) -> Claim:
    """A claim on ratios, given their logs; the last is shown, all are evaluated."""
    verdict = sign_verdict(ratios, positive=prediction == "> 1")
    return Claim.of(number, task, text, prediction, source, ratios[-1].exp(), verdict)


def table(claims: list[Claim]) -> pd.DataFrame:
    """The claims as they are printed and published."""
    columns = ("number", "task", "claim", "prediction", "source", "measured", "verdict")
    return pd.DataFrame([{name: getattr(claim, name) for name in columns} for claim in claims], columns=columns)

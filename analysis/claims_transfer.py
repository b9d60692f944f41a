"""Claim 13: the best learning rate of the largest size from those of the smaller ones, and what a wrong one costs."""

import numpy as np
import pandas as pd

from analysis.claims import DIRECTION, NOT, REPRODUCED, UNKNOWN, Claim, sign_verdict, subject
from analysis.scaling import Estimate
from analysis.transfer import Sweep, mean_regrets, sweeps

GOAL = 0.01  # of what training gains
SOURCE = "this project"


def transfer(frame: pd.DataFrame) -> list[Claim]:
    """Of each sweep over widths, ranks or steps, in the mean over the inits."""
    return [claim for sweep in sweeps(frame) for claim in _of_sweep(subject(frame), sweep)]


def _of_sweep(task: str, sweep: Sweep) -> list[Claim]:
    fit, over_theory, over_same = mean_regrets(sweep)
    sizes = sweep.grid.widths
    of = f"{sweep.what}: rate for {sweep.symbol} = {sizes[-1]} from {sizes[0]} to {sizes[-2]}"
    claims = [Claim.of("13a", task, f"{of}, regret of the fit", f"≤ {GOAL:g}", SOURCE, fit, bounded(fit))]
    for number, what, estimate in (("13b", "the theory's exponent", over_theory), ("13c", "the same rate", over_same)):
        if not (number == "13b" and None in [sweep.powers.get(init) for init in sweep.grid.inits]):
            text = f"{of}, regret of the fit minus that of {what}"
            claims.append(
                Claim.of(number, task, text, "< 0", SOURCE, estimate, sign_verdict([estimate], positive=False))
            )
    return claims


def bounded(estimate: Estimate) -> str:
    """*Reproduced* if the whole interval is within GOAL, *direction only* if the value is."""
    if np.isnan([estimate.value, estimate.high]).any():
        return UNKNOWN
    return REPRODUCED if estimate.high <= GOAL else DIRECTION if estimate.value <= GOAL else NOT

"""Claim 19: A leaves the random subspace in which it starts, and B does so ever less as the model widens."""

import numpy as np
import pandas as pd

from analysis.claims import Claim, exponent_verdict, subject
from analysis.grid import split
from analysis.rotation import left, predicted, rotations
from analysis.scaling import bootstrap, exponent
from analysis.theory import FAMILY

SOURCE = "counting, this project"


def rotation(frame: pd.DataFrame) -> list[Claim]:
    """Of each task, the exponent in n of the share of the random factor's span that is left at the end of training."""
    claims = []
    for (task,), part in split(frame, ["task.name"]).items():
        grid = rotations(part)
        powers = {init: predicted(task, init) for init in grid.inits}
        for init, power in powers.items():
            others = [powers[other] for other in powers if FAMILY[other] != FAMILY[init]]
            if power is None or not others:
                continue
            [slope] = bootstrap(grid, lambda g, init=init: np.array([exponent(g.widths, left(g, init))]))
            side = FAMILY[init]
            text = f"Init[{side}]: share of its subspace that {side} has left at the end"
            verdict = exponent_verdict(slope, power, others[0])
            claims.append(Claim.of(f"19{side.lower()}", subject(part), text, f"n^{power:g}", SOURCE, slope, verdict))
    return claims

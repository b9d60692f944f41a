"""Claim 18: whether PiSSA and OLoRA differ from LoRA by where B·A points, or by how large it is."""

import numpy as np
import pandas as pd

from analysis.arms import BETWEEN, controls
from analysis.claims import Claim, sign_verdict, subject
from analysis.grid import Grid, split
from analysis.scaling import bootstrap

LORAM = "LoRAM, 2025"  # what its abstract leads one to expect, written before the runs
NAMES = {"pissa": "PiSSA", "olora": "OLoRA"}


def magnitude(frame: pd.DataFrame) -> list[Claim]:
    """Of each task and init with both controls: unit norms move the best rate, and the best loss, by more than random directions
    do."""
    claims = []
    for _, part in split(frame, ["task.name"]).items():
        grid, task = controls(part), subject(part)
        for init, name in NAMES.items():
            arms = [init, f"{init}{BETWEEN}unit norms", f"{init}{BETWEEN}random directions"]
            if not set(arms) <= set(grid.inits):
                continue

            def moved(g: Grid, arms: list[str] = arms) -> np.ndarray:
                """|by norms| - |by directions| of the logs of the best rate and of the best loss, at the smallest width."""
                bests = [g.best(arm, g.widths[0]) for arm in arms]
                values = np.array([[np.nan] * 2 if best.edge else [np.log(best.lr), best.log_loss] for best in bests])
                by_norms, by_directions = np.abs(values[1:] - values[0])
                return by_norms - by_directions

            for number, what, found in zip(("18a", "18b"), ("lr", "loss"), bootstrap(grid, moved), strict=True):
                text = f"{name}: how far unit norms move log best {what}, minus how far random directions do"
                verdict = sign_verdict([found], positive=True)
                claims.append(Claim.of(number, task, text, "> 0", LORAM, found, verdict))
    return claims

"""Claim 17: what remedies do to the growth of Z_A, to the best loss and to the exponent of the best rate under Init[A]."""

import numpy as np
import pandas as pd

from analysis import theory
from analysis.claims import Claim, sign_verdict, subject
from analysis.claims_full import about
from analysis.grid import Grid, split
from analysis.remedies import arms, parted
from analysis.scaling import best_lrs, bootstrap, exponent, sizes

STABLE, RIEMANNIAN, FA = "Stable-LoRA, 2026", "Zhang, Pilanci 2024", "LoRA-FA, 2023"
# What the papers' abstracts lead one to expect of Init[A]: (source, best loss over plain LoRA's), written before the runs.
EXPECTED = {"Stable-LoRA": (STABLE, "< 1"), "Riemannian": (RIEMANNIAN, "< 1"), "frozen A": (FA, "about 1")}


def remedies(frame: pd.DataFrame) -> list[Claim]:
    """Of each task, and each remedy beside plain LoRA under the same init of the family of Init[A]."""
    claims = []
    for _, part in split(frame, ["task.name"]).items():
        grid = arms(part)
        for arm in grid.inits:
            init, remedy = parted(arm)
            if remedy in EXPECTED and init in grid.inits and theory.FAMILY.get(init) == "A":
                claims += _claims(subject(part), grid, init, arm, remedy)
    return claims


def _claims(task: str, grid: Grid, plain: str, arm: str, remedy: str) -> list[Claim]:
    source, loss = EXPECTED[remedy]

    def slopes(g: Grid) -> np.ndarray:
        """Exponents of Z_A and of the best rate, with the remedy minus without."""
        of = [
            [exponent(g.widths, sizes(g, init, "final/feature/Z_A")), exponent(g.widths, best_lrs(g, init))]
            for init in (arm, plain)
        ]
        return -np.diff(of, axis=0)[0]

    Z_A, rate = bootstrap(grid, slopes)
    ratios = bootstrap(grid, lambda g: np.array([g.paired(arm, plain, width).mean() for width in g.widths]))
    text = f"{remedy}, Init[A]"
    of_loss = f"{text}: best loss over plain LoRA's, at every n; here {grid.widths[-1]}"
    verdict = about(ratios, 1) if loss.startswith("about") else sign_verdict(ratios, positive=False)
    falls, rises = sign_verdict([Z_A], positive=False), sign_verdict([rate], positive=True)
    return [
        Claim.of(
            "17a", task, f"{text}: exponent of Z_A in n at the end, minus plain LoRA's", "< 0", source, Z_A, falls
        ),
        Claim.of("17b", task, of_loss, loss, source, ratios[-1].exp(), verdict),
        Claim.of("17c", task, f"{text}: exponent of the best lr in n, minus plain LoRA's", "> 0", source, rate, rises),
    ]

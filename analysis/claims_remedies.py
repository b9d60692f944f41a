"""Claim 17: what remedies do to the growth of Z_A, to the best loss and to the exponent of the best rate under Init[A], and
whether optimizers of the product of both factors tell inits and widths apart."""

import numpy as np
import pandas as pd

from analysis import theory
from analysis.arms import parted
from analysis.arms import remedies as arms
from analysis.claims import Claim, exponent_verdict, sign_verdict, subject
from analysis.claims_full import about
from analysis.grid import Grid, split
from analysis.scaling import best_lrs, bootstrap, exponent, sizes

STABLE, RIEMANNIAN, FA = "Stable-LoRA, 2026", "Zhang, Pilanci 2024", "LoRA-FA, 2023"
RITE, MUON = "LoRA-RITE, Yen et al. 2024", "LoRA-Muon, Cesista et al. 2026"
# What the papers' abstracts lead one to expect of Init[A]: (source, best loss over plain LoRA's), written before the runs.
EXPECTED = {
    "Stable-LoRA": (STABLE, "< 1"),
    "Riemannian": (RIEMANNIAN, "< 1"),
    "frozen A": (FA, "about 1"),
    "LoRA-RITE": (RITE, "< 1"),
    "LoRA-Muon": (MUON, "< 1"),
}
INVARIANT = ("LoRA-RITE", "LoRA-Muon")  # to how B·A is split into factors
TRANSFERS = "LoRA-Muon"  # of which best rates are said not to depend on the width


def remedies(frame: pd.DataFrame) -> list[Claim]:
    """Of each task, and each remedy beside plain LoRA under the same init of the family of Init[A]."""
    claims = []
    for _, part in split(frame, ["task.name"]).items():
        grid = arms(part)
        for arm in grid.inits:
            init, remedy = parted(arm)
            if remedy in EXPECTED and init in grid.inits and theory.FAMILY.get(init) == "A":
                claims += _claims(subject(part), grid, init, arm, remedy)
        claims += _transfers(part, grid)
    return claims


def _transfers(frame: pd.DataFrame, grid: Grid) -> list[Claim]:
    """17d and 17e: whether one rate serves every width, and both inits."""
    claims, task, setting = [], subject(frame), frame["task.name"].iloc[0]
    for remedy in INVARIANT:
        of_arms = {arm: theory.FAMILY.get(parted(arm)[0]) for arm in grid.inits if parted(arm)[1] == remedy}
        pair = {side: next((arm for arm in of_arms if of_arms[arm] == side), None) for side in "AB"}
        for arm, side in of_arms.items() if remedy == TRANSFERS else ():
            if (plain := theory.exponent(setting, parted(arm)[0], "lr")) is None:
                continue
            [slope] = bootstrap(grid, lambda g, arm=arm: np.array([exponent(g.widths, best_lrs(g, arm))]))
            text, verdict = f"{remedy}, Init[{side}]: exponent of the best lr in n", exponent_verdict(slope, 0.0, plain)
            claims.append(Claim.of("17d", task, text, "n^0", MUON, slope, verdict))
        if all(pair.values()):
            ratios = bootstrap(grid, lambda g, pair=pair: best_lrs(g, pair["A"]) - best_lrs(g, pair["B"]))
            text = f"{remedy}: best lr, Init[A] over Init[B], at every n; here {grid.widths[-1]}"
            claims.append(
                Claim.of("17e", task, text, "about 1", EXPECTED[remedy][0], ratios[-1].exp(), about(ratios, 1))
            )
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

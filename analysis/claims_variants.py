"""Claims about inits and variants, by the rules of `analysis.claims`.

A claim about all inits takes those whose best learning rate lies off the edge of the grid, and says how many these are.
"""

from functools import partial

import numpy as np
import pandas as pd

from analysis import directions, theory
from analysis.claims import Claim, exponent_verdict, identity_claim, ratio_claim, sign_verdict
from analysis.grid import Grid, split
from analysis.scaling import Estimate, best_lrs, best_ratios, bootstrap, exponent, learning_lrs, rank_grids, spread_gap
from analysis.tables.load import per_run

TUNED = "Learning Rate Matters, 2026"
MIN_INITS = 3  # of which a spread is taken


def inits(frame: pd.DataFrame) -> list[Claim]:
    """Claim 8: tuned inits differ in their best rate more than in their best loss, and PiSSA's best rate is below LoRA's."""
    claims = []
    for (task,), part in split(frame, ["task.name"]).items():
        grid = Grid.of(part)
        if len(grid.inits) < MIN_INITS:
            continue
        tuned = [init for init in grid.inits if not grid.best(init, grid.widths[0]).edge]
        gap = spread_gap(grid, tuned) if len(tuned) >= MIN_INITS else Estimate(np.nan, np.nan, np.nan)
        text = f"std over {len(tuned)} inits of log best lr, minus that of log best loss, noise taken out"
        claims.append(Claim.of("8a", task, text, "> 0", TUNED, gap, sign_verdict([gap], positive=True)))
        if {"pissa", "kaiming_A"} <= set(grid.inits):
            ratio = bootstrap(grid, lambda g: best_lrs(g, "pissa") - best_lrs(g, "kaiming_A"))[0]
            claims.append(ratio_claim("8b", task, "best lr, PiSSA over PEFT's default", "< 1", [ratio], TUNED))
    return claims


def parameters(frame: pd.DataFrame) -> list[Claim]:
    """Claim 9: on one layer of n × n, VeRA trains n + r numbers and LoRA 2·n·r."""
    table = per_run(frame[frame["task.name"].isin(("teacher_student", "feature_regression"))])
    n, r, trained = table["task.width"], table["adapter.rank"], table["summary.trainable_parameters"]
    claims = []
    for number, adapter, expected, text in (("9a", "lora", 2 * n * r, "2·n·r"), ("9b", "vera", n + r, "n + r")):
        of_adapter = table["adapter.name"] == adapter
        if of_adapter.any():
            text = f"{'VeRA' if adapter == 'vera' else 'LoRA'} trains {text} numbers a layer"
            held, known = (trained == expected)[of_adapter], (trained + expected).notna()[of_adapter]
            claims.append(identity_claim(number, "toys", text, held, known))
    return claims


def dora(frame: pd.DataFrame) -> list[Claim]:
    """Claim 10: changes of length and of direction go together under LoRA, against each other under DoRA (Init[A], as there)."""
    points, claims = directions.quarters(frame), []
    for number, adapter, within, positive in (
        ("10a", "lora", False, True),
        ("10b", "dora", False, False),
        ("10c", "lora", True, True),
        ("10d", "dora", True, False),
    ):
        part = points[(points["adapter.name"] == adapter) & points["init.name"].map(theory.FAMILY).eq("A")]
        if part.empty:
            continue
        r = bootstrap(directions.correlations(part, within), lambda seeds: np.array([seeds.values.mean()]))[0]
        among = "layers of a quarter of training" if within else "layers and quarters"
        text = f"{directions.NAMES[adapter]}, Init[A]: changes of length and direction, correlation over {among}"
        verdict = sign_verdict([r], positive)
        prediction = "> 0" if positive else "< 0"
        claims.append(Claim.of(number, part["task.name"].iloc[0], text, prediction, "Liu et al. 2024", r, verdict))
    return claims


def lora_plus(frame: pd.DataFrame) -> list[Claim]:
    """Claim 11: the best ratio of rates, B's over A's, exceeds 1, and is larger for Init[B]."""
    claims = []
    for (task,), part in split(frame, ["task.name"]).items():
        grid = Grid.along(part, "optimizer.lr_ratio")
        for init in grid.inits:
            ratio = best_ratios(grid, init)
            name = {"A": "Init[A]", "B": "Init[B]"}.get(theory.FAMILY.get(init), init)
            number = {"A": "11a", "B": "11b"}.get(theory.FAMILY.get(init), "11")
            claims.append(
                ratio_claim(number, task, f"{name}: best lr of B over that of A", "> 1", [ratio], theory.PLUS)
            )
        pair = [next((init for init in grid.inits if theory.FAMILY.get(init) == side), None) for side in "BA"]
        if None not in pair:
            both = best_ratios(grid, *pair)
            claims.append(ratio_claim("11c", task, "best ratio, Init[B] over Init[A]", "> 1", [both], theory.PLUS))
    return claims


def ranks(frame: pd.DataFrame) -> list[Claim]:
    """Claim 12: exponents in the rank of the best rate, for each way to scale the product, over the ranks that learn."""
    claims, task = [], frame["task.name"].iloc[0]
    for power, grid in rank_grids(frame).items():
        for init in grid.inits:
            side = theory.FAMILY.get(init)
            predicted = theory.RANK_POWERS.get((side, power))
            if predicted is None:
                continue
            slope = bootstrap(grid, partial(_slope, init=init))[0]
            alternative = theory.rank_alternative(predicted, slope.value)
            number = f"12{'abc'[[0.0, -0.5, -1.0].index(power)] if side == 'A' else 'd'}"
            text = (
                f"Init[{side}], s = r^{power:g}: best lr against rank"
                if power
                else f"Init[{side}], s = 1: best lr against rank"
            )
            verdict = exponent_verdict(slope, predicted, alternative)
            claims.append(Claim.of(number, task, text, f"r^{predicted:g}", theory.MUA, slope, verdict))
    return sorted(claims, key=lambda claim: claim.number)


def _slope(grid: Grid, init: str) -> np.ndarray:
    return np.array([exponent(grid.widths, learning_lrs(grid, init))])

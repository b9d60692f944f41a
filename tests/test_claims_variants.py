"""Claims about inits and variants, on records in which they hold and on records in which they do not."""

import numpy as np
import pytest
from synthetic_variants import BEST_RATIO, INITS, RANK_SLOPES, RATIOS, directions, ranks, ratios, variants, zoo

from analysis import claims_variants as claims
from analysis.claims import NOT, REPRODUCED, UNKNOWN


def verdicts(rows):
    return {(row.number, row.task): row.verdict for row in rows}


def test_inits_that_differ_in_rate_more_than_in_loss():
    found = verdicts(claims.zoo(zoo(noise=0.01)))
    assert found == {(n, task): REPRODUCED for n in ("8a", "8b") for task in ("feature_regression", "teacher_student")}
    alike = {init: (10 * loss, np.log(2) * (init == "pissa")) for init, (loss, _) in INITS.items()}
    found = verdicts(claims.zoo(zoo(shifts=alike, noise=0.01, tasks=("teacher_student",))))
    assert found["8a", "teacher_student"] == NOT and found["8b", "teacher_student"] == NOT


def test_what_vera_and_lora_train():
    assert verdicts(claims.parameters(variants())) == {("9a", "toys"): REPRODUCED, ("9b", "toys"): REPRODUCED}
    assert verdicts(claims.parameters(variants(wrong=1)))["9b", "toys"] == NOT


def test_directions_and_lengths():
    found = verdicts(claims.dora(directions()))
    assert found == {("10a", "language_model"): REPRODUCED, ("10b", "language_model"): REPRODUCED}
    found = verdicts(claims.dora(directions(signs={"lora": -1, "dora": 1})))
    assert set(found.values()) == {NOT}


def test_ratios_of_rates():
    rows = claims.lora_plus(ratios(noise=0.01))
    assert verdicts(rows) == {(n, "teacher_student"): REPRODUCED for n in ("11a", "11b", "11c")}
    assert [row.value for row in rows] == pytest.approx([BEST_RATIO["A"], BEST_RATIO["B"], 8.0], rel=0.05)
    found = verdicts(claims.lora_plus(ratios(best={"A": 0.25, "B": 0.25}, noise=0.01)))
    assert found["11a", "teacher_student"] == found["11b", "teacher_student"] == NOT
    at_the_edge = verdicts(claims.lora_plus(ratios(best={"A": 4.0, "B": 100 * RATIOS[-1]}, noise=0.01)))
    assert at_the_edge["11b", "teacher_student"] == at_the_edge["11c", "teacher_student"] == UNKNOWN


def test_exponents_in_the_rank():
    rows = claims.ranks(ranks(noise=0.01))
    assert verdicts(rows) == {(n, "feature_regression"): REPRODUCED for n in ("12a", "12b", "12c", "12d")}
    assert [row.value for row in rows] == pytest.approx([-0.5, -0.25, 0.0, 0.0], abs=0.02)
    wrong = {key: -0.8 if slope == 0 else 0.7 for key, slope in RANK_SLOPES.items()}
    assert set(verdicts(claims.ranks(ranks(slopes=wrong, noise=0.01))).values()) == {NOT}


def test_too_few_seeds_are_not_enough_data():
    for judge, frame in (
        (claims.zoo, zoo(seeds=(0, 1))),
        (claims.lora_plus, ratios(seeds=(0, 1))),
        (claims.ranks, ranks(seeds=(0, 1))),
    ):
        assert all(row.verdict == UNKNOWN and np.isnan(row.low) for row in judge(frame))

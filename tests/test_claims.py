"""Verdicts: on records that follow the theory every claim is reproduced, and on records that violate it, it says so."""

import numpy as np
import pytest
from conftest import rejects
from synthetic import LRS, first_steps, sweep

from analysis import theory
from analysis.claims import DIRECTION, NOT, REPRODUCED, UNKNOWN, dynamics, exponent_verdict, first_step, sign_verdict
from analysis.scaling import Estimate


def verdicts(claims):
    return {claim.number: claim.verdict for claim in claims}


def test_everything_is_reproduced_where_the_theory_holds():
    assert set(verdicts(dynamics(sweep())).values()) == {REPRODUCED}
    assert set(verdicts(first_step(first_steps())).values()) == {REPRODUCED}


VIOLATIONS = {  # claim -> what is changed so that the claim is false
    "2a": {"changes": {("A", "lr"): -1.5}},  # best lr of A below that of B
    "2b": {"changes": {("A", "lr"): -1.0}},  # the ratio does not grow
    "3a": {"changes": {("A", "lr"): 0.0}},
    "3b": {"changes": {("B", "lr"): 0.0}},
    "4": {"changes": {("B", "loss"): -1.0}},  # B ends lower at large widths
    "5a": {"changes": {("A", "feature/Z_A"): 0.0}},
    "5b": {"changes": {("B", "feature/Z_A"): 0.5}},
    "6a": {"changes": {("A", "feature/delta_2"): -1.0}},
    "6b": {"changes": {("B", "feature/delta_2"): 0.0}},
    "7": {"edge": {"A": 2.0, "B": 8.0}},  # A diverges first
}


@pytest.mark.parametrize("number", VIOLATIONS)
def test_a_violated_claim_is_not_reproduced(number):
    assert verdicts(dynamics(sweep(**VIOLATIONS[number])))[number] == NOT


@pytest.mark.parametrize(("number", "init"), [("1a", "gaussian_A"), ("1b", "gaussian_B"), ("1c", "zero")])
def test_one_run_that_breaks_an_identity_breaks_its_claim(number, init):
    found = verdicts(first_step(first_steps(broken=init)))
    assert found.pop(number) == NOT and set(found.values()) == {REPRODUCED}


def test_half_an_effect_is_direction_only():
    found = verdicts(dynamics(sweep(changes={("B", "lr"): -0.7, ("B", "feature/delta_2"): -0.4})))
    assert found["3b"] == DIRECTION and found["6b"] == DIRECTION


def test_too_little_data_gives_no_verdict():
    assert set(verdicts(dynamics(sweep(seeds=(0, 1, 2, 3)))).values()) == {UNKNOWN}
    found = verdicts(dynamics(sweep(widths=(128, 256))))
    assert {found[number] for number in ("2b", "3a", "3b", "5a", "5b", "6a", "6b")} == {UNKNOWN}


def test_edges_of_the_grid_are_never_used():
    found = verdicts(dynamics(sweep(lrs=tuple(lr for lr in LRS if lr >= 0.03))))
    assert found["2a"] == found["3a"] == found["4"] == UNKNOWN


def test_a_rate_that_never_diverges_counts_as_the_least_it_can_be():
    """One init diverging everywhere and the other nowhere is the strongest evidence, for or against."""
    assert verdicts(dynamics(sweep(edge={"A": 1e9})))["7"] == REPRODUCED
    assert verdicts(dynamics(sweep(edge={"B": 1e9})))["7"] == NOT


def test_no_divergence_no_verdict_about_it():
    assert verdicts(dynamics(sweep(edge={"A": 1e9, "B": 1e9})))["7"] == UNKNOWN


def test_language_models_are_compared_by_held_out_loss_and_break_down_above_their_start():
    """Their training losses are all alike here, and none of their runs diverges."""
    everything = verdicts(dynamics(sweep(task="language_model")))
    assert set(everything.values()) == {REPRODUCED}
    assert set(everything) == set("2a 2b 3a 3b 4 5a 5b 6a 6b 7".split())
    assert verdicts(dynamics(sweep(task="language_model", edge={"A": 1.0})))["7"] == NOT
    assert verdicts(dynamics(sweep({("A", "loss"): 2.0}, task="language_model")))["4"] == NOT
    assert "ends above the start" in next(c.claim for c in dynamics(sweep(task="language_model")) if c.number == "7")


def test_a_toy_does_not_break_down_by_ending_above_its_start():
    """Of the toys' claims nothing changes: their held-out losses are not looked at."""
    frame = sweep()
    frame.loc[frame["step"] == 0, "eval/loss"] = 1e-9
    assert dynamics(frame) == dynamics(sweep())


def test_theory_is_silent_about_other_settings():
    assert dynamics(sweep().assign(**{"optimizer.name": "sgd"})) == []
    assert dynamics(sweep(task="teacher_student").assign(**{"task.out_exponent": 2.0})) == []
    assert dynamics(sweep(task="linear")) == []
    assert dynamics(sweep().assign(**{"adapter.name": "dora"})) == []
    assert dynamics(sweep().assign(**{"adapter.name": "lora"})) == dynamics(sweep()) != []


def test_predictions_depend_on_the_task():
    """The theorem's exponents are not those of a scalar output: Init[A]'s best lr falls like n^-3/4 there."""
    found = verdicts(dynamics(sweep(task="teacher_student")))
    assert found["3a"] == DIRECTION and found["3b"] == REPRODUCED


@pytest.mark.parametrize(("task", "side"), theory.EXPONENTS)
def test_predictions_follow_from_counting(task, side):
    """Z_A ~ lr·n (n^0 at the start) and B ~ lr under Init[A], n^0 under Init[B], at every step from the second on; each

    increment is its own product, and lr is the largest at which the output moves by no more than Θ(1): n·B·lr at first
    order, where a B aligned with W_out moves a scalar output √n times more.
    """
    table = theory.EXPONENTS[task, side]
    lr, B = table["lr"], table["lr"] if side == "A" else 0
    Z_A = lr + 1
    expected = {"Z_A": max(Z_A, 0), "Z_B": B + Z_A, "delta_1": B + lr + 1, "delta_2": lr + Z_A, "delta_3": 2 * lr + 1}

    def check(expected):
        assert {name: table[f"feature/{name}"] for name in expected} == expected

    check(expected)
    rejects(check, expected | {"delta_2": expected["delta_2"] + 0.5})
    aligned = 0.5 if (task, side) == ("teacher_student", "A") else 0
    assert table["feature/Z_B"] + aligned == 0


def estimate(value, spread=0.05):
    return Estimate(value, value - spread, value + spread)


@pytest.mark.parametrize(
    ("measured", "predicted", "rival", "verdict"),
    [
        (estimate(-0.5), -0.5, -1.0, REPRODUCED),
        (estimate(-0.74), -0.5, -1.0, REPRODUCED),  # within half the distance to the rival
        (estimate(-0.76), -0.5, -1.0, DIRECTION),
        (estimate(-0.7, spread=0.4), -0.5, -1.0, DIRECTION),  # cannot exclude the rival, but excludes 0
        (estimate(-0.3, spread=0.4), -0.5, -1.0, REPRODUCED),
        (estimate(-0.4, spread=0.8), -0.5, -1.0, UNKNOWN),  # holds both predictions, and 0
        (estimate(-0.06, spread=0.02), -0.5, -1.0, NOT),  # significant but negligible
        (estimate(0.0), -0.5, -1.0, NOT),
        (estimate(0.5), -0.5, -1.0, NOT),
        (estimate(0.1), 0.0, 0.5, REPRODUCED),
        (estimate(0.3), 0.0, 0.5, NOT),  # closer to the rival
        (estimate(-0.3), 0.0, 0.5, DIRECTION),  # an effect, away from the rival
        (estimate(0.2, spread=0.4), 0.0, 0.5, UNKNOWN),
        (Estimate(-0.3, -0.6, 0.1), 0.0, 0.5, NOT),  # neither within the band nor clear of 0
        (Estimate(np.nan, np.nan, np.nan), 0.0, 0.5, UNKNOWN),
    ],
)
def test_exponent_rule(measured, predicted, rival, verdict):
    assert exponent_verdict(measured, predicted, rival) == verdict


@pytest.mark.parametrize(
    ("values", "positive", "verdict"),
    [
        ([estimate(0.2), estimate(0.1)], True, REPRODUCED),
        ([estimate(0.2), estimate(0.01)], True, DIRECTION),
        ([estimate(0.2), estimate(-0.01)], True, NOT),
        ([estimate(-0.2)], False, REPRODUCED),
        ([estimate(-0.2)], True, NOT),
        ([estimate(0.2), Estimate(np.nan, np.nan, np.nan)], True, UNKNOWN),
        ([], True, UNKNOWN),
    ],
)
def test_comparison_rule(values, positive, verdict):
    assert sign_verdict(values, positive) == verdict

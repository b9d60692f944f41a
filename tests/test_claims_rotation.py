"""Claim 19 on records on which A turns and B does so ever less, and on others on which neither or both do."""

import numpy as np
import pytest
from synthetic_variants import turned

from analysis.claims_rotation import rotation
from analysis.grid import NotShown
from analysis.rotation import entropy_rank, intruders, left, predicted, rotations


def verdicts(frame):
    return {claim.number: claim.verdict for claim in rotation(frame)}


def test_exponents_of_what_has_left():
    frame = turned()
    assert verdicts(frame) == {"19a": "reproduced", "19b": "reproduced"}
    grid = rotations(frame)
    np.testing.assert_allclose(np.exp(left(grid, "gaussian_A")), 0.5, rtol=1e-6)
    np.testing.assert_allclose(np.exp(entropy_rank(grid, "gaussian_B")), 2.5, rtol=1e-6)
    assert [intruders(grid, f"gaussian_{side}").tolist() for side in "AB"] == [[2.0] * 4, [0.0] * 4]


@pytest.mark.parametrize(("powers", "wrong"), [({"A": -2.0, "B": -2.0}, "19a"), ({"A": 0.0, "B": 0.0}, "19b")])
def test_factors_that_turn_otherwise(powers, wrong):
    found = verdicts(turned(powers))
    assert found.pop(wrong) == "not reproduced" and set(found.values()) == {"reproduced"}


def test_what_counting_predicts():
    """(lr/entry)²: of A, whose entries are n^-1/2, and of B, whose entries are 1."""
    powers = {
        (task, side): predicted(task, f"gaussian_{side}")
        for task in ("feature_regression", "teacher_student")
        for side in "AB"
    }
    assert powers == {
        ("feature_regression", "A"): 0, ("feature_regression", "B"): -2,
        ("teacher_student", "A"): -0.5, ("teacher_student", "B"): -2,
    }  # fmt: skip
    assert predicted("linear", "gaussian_A") is None


def test_other_inits_have_no_random_factor_alone():
    with pytest.raises(NotShown, match="there are no runs of these"):
        rotations(turned().assign(**{"init.name": "pissa"}))

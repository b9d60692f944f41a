"""Claim 18 on records on which PiSSA's size makes the difference, and on others on which its directions do."""

import pytest
from synthetic import sweep
from synthetic_variants import controls as controlled

from analysis.arms import controls
from analysis.claims_magnitude import magnitude
from analysis.grid import NotShown


@pytest.mark.parametrize(("by", "verdict"), [("norms", "reproduced"), ("directions", "not reproduced")])
def test_what_makes_the_difference(by, verdict):
    claims = magnitude(controlled(by))
    assert [(claim.number, claim.verdict) for claim in claims] == [("18a", verdict), ("18b", verdict)]
    sign = 1 if by == "norms" else -1
    assert [sign * claim.value for claim in claims] == pytest.approx([2.08, 0.405], rel=0.1)  # logs of 8 and 1.5


def test_every_control_is_a_row_and_without_one_there_is_no_figure():
    assert controls(controlled()).inits == [
        "gaussian_A", "pissa", "pissa, random directions", "pissa, random directions, unit norms", "pissa, unit norms"
    ]  # fmt: skip
    with pytest.raises(NotShown, match=r"magnitude needs runs with one of init\.directions, init\.norms"):
        controls(sweep())
    some = controlled()
    assert magnitude(some[some["init.norms"] != "unit"]) == []

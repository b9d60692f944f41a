"""Claim 17 on records on which remedies work, and on others on which they do not."""

import pandas as pd
import pytest
from synthetic import sweep

from analysis.claims_remedies import EXPECTED, remedies
from analysis.figures.remedies import _name
from analysis.grid import NotShown
from analysis.remedies import arms

FIELDS = {
    "Stable-LoRA": ("optimizer.shrink", 0.01),
    "Riemannian": ("optimizer.riemannian", 0.01),
    "frozen A": ("adapter.freeze", "A"),
}


def beside_plain(remedy, Z_A=0.5, lr=-0.5, loss=1.0):
    """Plain LoRA, whose Z_A has exponent 0.5 under Init[A] and whose best rate -0.5, and a remedy with exponents of its own."""
    changed = sweep(changes={("A", "feature/Z_A"): Z_A, ("A", "lr"): lr})
    changed = changed[changed["init.name"] == "gaussian_A"]
    field, value = FIELDS[remedy]
    changed = changed.assign(
        **{
            field: value,
            "run_id": remedy + changed["run_id"],
            "summary.final_loss": loss * changed["summary.final_loss"],
        }
    )
    return pd.concat([sweep(), changed], ignore_index=True)


def verdicts(frame):
    return {claim.number: claim.verdict for claim in remedies(frame)}


@pytest.mark.parametrize("remedy", EXPECTED)
def test_a_remedy_that_works(remedy):
    found = verdicts(beside_plain(remedy, Z_A=0.0, lr=-0.1, loss=1.0 if remedy == "frozen A" else 0.8))
    assert found == dict.fromkeys(("17a", "17b", "17c"), "reproduced")


@pytest.mark.parametrize("remedy", EXPECTED)
def test_one_that_does_nothing_or_harm(remedy):
    """A loss that is the same is what frozen A is to have, and what others are not."""
    of_nothing = verdicts(beside_plain(remedy))
    assert of_nothing["17a"] == of_nothing["17c"] == "not reproduced"
    assert of_nothing["17b"] == ("reproduced" if remedy == "frozen A" else "not reproduced")
    assert set(verdicts(beside_plain(remedy, Z_A=0.9, lr=-0.9, loss=3)).values()) == {"not reproduced"}


def test_all_arms_of_a_sweep_are_rows_of_one_grid():
    frame = pd.concat([beside_plain(remedy) for remedy in FIELDS]).drop_duplicates(["run_id", "step"])
    grid = arms(frame)
    assert [_name(arm) for arm in grid.inits] == [
        "Init[A]", "Init[A], Riemannian", "Init[A], Stable-LoRA", "Init[A], frozen A", "Init[B]"
    ]  # fmt: skip
    assert len(remedies(frame)) == 9 and remedies(sweep()) == []


def test_two_strengths_of_a_remedy_are_not_mixed():
    frame = beside_plain("Riemannian")
    other = frame[frame["optimizer.riemannian"].notna()].assign(**{"optimizer.riemannian": 0.5})
    with pytest.raises(NotShown, match=r"differ in optimizer\.riemannian"):
        arms(pd.concat([frame, other.assign(run_id="other" + other["run_id"])]))

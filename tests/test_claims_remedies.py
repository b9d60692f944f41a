"""Claim 17 on records on which remedies work, and on others on which they do not."""

import pandas as pd
import pytest
from synthetic import sweep

from analysis import theory
from analysis.arms import remedies as arms
from analysis.claims import dynamics
from analysis.claims_remedies import EXPECTED, remedies
from analysis.figures._rows import arm_label
from analysis.grid import NotShown
from analysis.tables.settings import LeftOut

FIELDS = {
    "Stable-LoRA": ("optimizer.shrink", 0.01),
    "Riemannian": ("optimizer.riemannian", 0.01),
    "frozen A": ("adapter.freeze", "A"),
    "LoRA-RITE": ("optimizer.name", "lora_rite"),
    "LoRA-Muon": ("optimizer.name", "lora_muon"),
}


def beside_plain(remedy, Z_A=0.5, lr=-0.5, loss=1.0, inits=("gaussian_A",), **options):
    """Plain LoRA, whose Z_A has exponent 0.5 under Init[A] and whose best rate -0.5, and a remedy with exponents of its own."""
    changed = sweep(changes={("A", "feature/Z_A"): Z_A, ("A", "lr"): lr, ("B", "lr"): lr}, **options)
    changed = changed[changed["init.name"].isin(inits)]
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
    assert {number: found[number] for number in ("17a", "17b", "17c")} == dict.fromkeys(
        ("17a", "17b", "17c"), "reproduced"
    )


@pytest.mark.parametrize("remedy", EXPECTED)
def test_one_that_does_nothing_or_harm(remedy):
    """A loss that is the same is what frozen A is to have, and what others are not."""
    of_nothing = verdicts(beside_plain(remedy))
    assert of_nothing["17a"] == of_nothing["17c"] == "not reproduced"
    assert of_nothing["17b"] == ("reproduced" if remedy == "frozen A" else "not reproduced")
    assert set(verdicts(beside_plain(remedy, Z_A=0.9, lr=-0.9, loss=3)).values()) == {"not reproduced"}


@pytest.mark.parametrize(("remedy", "numbers"), [("LoRA-RITE", ["17e"]), ("LoRA-Muon", ["17d", "17d", "17e"])])
@pytest.mark.parametrize("alike", [True, False])
def test_one_rate_for_every_width_and_both_inits(remedy, numbers, alike):
    """Where Init[B] keeps a rate of its own, which falls with the width, it is neither."""
    both = ("gaussian_A", "gaussian_B")
    shared = {"inits": both, "lr": 0.0} if alike else {"inits": both, "lr": -1.0}
    frame = beside_plain(remedy, **shared)
    if alike:
        own = (frame["optimizer.name"] == FIELDS[remedy][1]) & (frame["init.name"] == "gaussian_B")
        of_A = frame[(frame["optimizer.name"] == FIELDS[remedy][1]) & (frame["init.name"] == "gaussian_A")]
        frame = pd.concat([frame[~own], of_A.assign(**{"init.name": "gaussian_B", "run_id": "B" + of_A["run_id"]})])
    found = [claim for claim in remedies(frame) if claim.number in ("17d", "17e")]
    assert [claim.number for claim in found] == numbers
    if alike:
        assert {claim.verdict for claim in found} == {"reproduced"}
    else:
        assert "reproduced" not in {claim.verdict for claim in found if claim.number == "17d"}


def test_all_arms_of_a_sweep_are_rows_of_one_grid():
    frame = pd.concat([beside_plain(remedy) for remedy in FIELDS]).drop_duplicates(["run_id", "step"])
    grid = arms(frame)
    assert [arm_label(arm) for arm in grid.inits] == [
        "Init[A]", "Init[A], LoRA-Muon", "Init[A], LoRA-RITE", "Init[A], Riemannian", "Init[A], Stable-LoRA",
        "Init[A], frozen A", "Init[B]",
    ]  # fmt: skip
    assert len(remedies(frame)) == 16
    with pytest.raises(NotShown, match=r"remedies needs runs with one of optimizer\.riemannian"):
        remedies(sweep())


def test_seeds_that_an_arm_lacks_are_said_and_left_out():
    frame = beside_plain("frozen A", Z_A=0.0)
    lacking = frame[frame["adapter.freeze"].isna() | (frame["seed"] < 4)]
    with pytest.warns(LeftOut, match="not every remedy has seeds 4: they are left out"):
        assert list(arms(lacking).seeds) == [0, 1, 2, 3]


def test_rates_of_an_arm_may_lie_between_those_of_others():
    """Sizes are interpolated between its own rates."""
    frame = beside_plain("frozen A", Z_A=0.0)
    own = frame["adapter.freeze"].notna()
    frame["optimizer.lr"] = frame["optimizer.lr"].where(~own, 1.5 * frame["optimizer.lr"])
    assert verdicts(frame)["17a"] == "reproduced"


def test_the_theory_does_not_speak_of_remedies():
    """Not even where all runs have one."""
    frame = sweep()
    assert theory.setting(frame) == "feature_regression" and dynamics(frame)
    for field, value in FIELDS.values():
        assert theory.setting(frame.assign(**{field: value})) is None and dynamics(frame.assign(**{field: value})) == []
        without = "adamw" if field == "optimizer.name" else None
        assert theory.setting(frame.assign(**{field: without})) == "feature_regression"


def test_two_strengths_of_a_remedy_are_two_arms():
    frame = beside_plain("Riemannian")
    other = frame[frame["optimizer.riemannian"].notna()].assign(**{"optimizer.riemannian": 0.5})
    grid = arms(pd.concat([frame, other.assign(run_id="other" + other["run_id"])]))
    assert [arm for arm in grid.inits if "R" in arm] == ["gaussian_A, Riemannian 0.01", "gaussian_A, Riemannian 0.5"]

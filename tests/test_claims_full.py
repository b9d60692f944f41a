"""Claims about full finetuning, on records in which they hold and on records in which they do not; what is compared with it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from synthetic import sweep
from synthetic_variants import MADE, full, named, variants

from analysis import claims, claims_full, figures, report
from analysis.claims import DIRECTION, NOT, REPRODUCED, UNKNOWN
from analysis.scaling import Estimate
from analysis.tables.settings import comparable, is_full, without_baseline


def verdicts(frame):
    """Number and symbol of the size -> verdict."""
    found = claims_full.full_finetuning(frame)
    return {claim.number + (" r" if ", n = " in claim.claim else " n"): claim.verdict for claim in found}


def test_a_ratio_that_grows_like_the_root_of_the_width_is_muas():
    """From 9.9 at n = 128 to twice that at 512, which is more than a factor of two from ten."""
    expected = {"14a n": NOT, "14a r": REPRODUCED, "14b r": REPRODUCED, "14c n": REPRODUCED, "14d n": REPRODUCED}
    assert verdicts(full()) == expected


def test_a_ratio_that_stays_is_not():
    expected = {"14a n": REPRODUCED, "14a r": REPRODUCED, "14b r": REPRODUCED, "14c n": NOT, "14d n": NOT}
    assert verdicts(full({("A", "n"): -1.0, ("B", "n"): -0.5})) == expected
    assert verdicts(full({("A", "r"): -0.5}))["14b r"] == NOT
    assert verdicts(full(ratio=1.0))["14a r"] == NOT


def test_the_ratio_is_that_of_the_best_rates():
    for comparison in claims_full.beside_full(full(noise=0.01)):
        *at, _ = claims_full.ratios(comparison, "gaussian_A")
        expected = 10 * (comparison.grid.widths / 128) ** 0.5 if comparison.symbol == "n" else np.full(4, 10.0)
        found = np.exp([ratio.value for ratio in at])
        assert found == pytest.approx(expected, rel=0.05) and found != pytest.approx(1.1 * expected, rel=0.05)


@pytest.mark.parametrize(
    ("ends", "verdict"), [((6, 12), REPRODUCED), ((4, 12), DIRECTION), ((6, 21), DIRECTION), ((6, np.nan), UNKNOWN)]
)
def test_about_ten_is_within_a_factor_of_two(ends, verdict):
    ten = Estimate(*np.log([10.0, 9.0, 11.0]))
    assert claims_full.about([Estimate(*np.log([10.0, *ends])), ten]) == verdict
    assert claims_full.about([Estimate(*np.log([21.0, *ends])), ten]) == (NOT if np.isfinite(ends[1]) else UNKNOWN)


def test_of_tables_without_both_nothing_is_claimed():
    frame = full()
    for part in (frame[is_full(frame)], without_baseline(frame), sweep(), frame[frame["task.width"] == 256]):
        assert claims_full.full_finetuning(part) == []


def beside_lora(seeds=range(5), **settings):
    """A sweep over widths of LoRA, and of full finetuning with these seeds and settings."""
    lora = sweep(task="language_model").assign(**{"adapter.name": "lora", "adapter.rank": 4.0, "adapter.alpha": 4.0})
    full = named(lora[(lora["init.name"] == "gaussian_B") & lora["seed"].isin(seeds)], "full")
    columns = {
        "adapter.name": "full",
        "init.name": "pretrained",
        "adapter.rank": np.nan,
        "adapter.alpha": np.nan,
        **settings,
    }
    return lora, pd.concat([full.assign(**columns), lora], ignore_index=True)


def test_full_finetuning_stays_beside_the_adapters_of_a_sweep_and_claims_of_these_do_not_see_it():
    lora, whole = beside_lora()
    [kept] = comparable(whole, [])
    assert set(kept["run_id"]) == set(whole["run_id"])
    other = named(lora[lora["seed"] == 0], "other").assign(**{"adapter.rank": 8.0})
    with pytest.warns(UserWarning, match="leaving out"):
        [kept] = comparable(pd.concat([whole, other], ignore_index=True), [])
    assert set(kept["run_id"]) == set(whole["run_id"])

    def of(frame):
        found = report.claims_of({"lm_lr_sensitivity": frame}, Path("outputs"))
        return [(claim.number, claim.measured, claim.verdict) for claim in found if not claim.number.startswith("14")]

    def same(a, b):
        assert a == b

    same(of(whole), of(lora))
    rejects(same, of(whole), of(lora[lora["seed"] > 0]))
    says = figures.caption("lm_lr_sensitivity", [whole])
    assert "Init[A] ends lower than Init[B]" in says and "Init[A] ends lower than full finetuning" in says
    assert "full finetuning" not in figures.caption("lm_dynamics", [whole])


@pytest.mark.parametrize(("seeds", "settings"), [(range(3), {}), (range(5), {"steps": 99}), (range(1, 9), {})])
def test_full_finetuning_has_no_say_in_which_adapters_are_kept(seeds, settings):
    """It lacks seeds, or outnumbers them in a setting of its own."""
    lora, whole = beside_lora(seeds, **settings)
    more = [named(whole[is_full(whole)], f"{i}").assign(seed=lambda t, i=i: t["seed"] + 100 * i) for i in range(1, 4)]
    with pytest.warns(UserWarning, match="full finetuning is left out"):
        [kept] = comparable(pd.concat([whole, *more], ignore_index=True), [])
    assert set(kept["run_id"]) == set(lora["run_id"])


def test_seeds_of_full_finetuning_alone_are_left_out():
    _, whole = beside_lora()
    more = named(whole[is_full(whole)], "more").assign(seed=lambda t: t["seed"] + 5)
    [kept] = comparable(pd.concat([whole, more], ignore_index=True), [])
    assert set(kept["run_id"]) == set(whole["run_id"])


def test_real_models_are_judged_at_one_width_on_their_longest_training():
    frame = MADE["advise_smollm2"]()
    found = {claim.number: claim for claim in claims.at_one_width(without_baseline(frame))}
    assert {number: claim.verdict for number, claim in found.items()} == dict.fromkeys(("2a", "4", "7"), REPRODUCED)
    assert {claim.task for claim in found.values()} == {"smollm2"}
    assert found["2a"].value == pytest.approx(0.05 / 0.04, rel=0.1)
    assert found["7"].value == pytest.approx(2 * 0.05 / 0.04, rel=0.3)  # on a grid of factors of 2
    lost = frame.assign(
        **{"init.name": frame["init.name"].replace({"gaussian_A": "gaussian_B", "gaussian_B": "gaussian_A"})}
    )
    assert {claim.verdict for claim in claims.at_one_width(without_baseline(lost))} == {NOT}
    longer = named(frame[frame["init.name"] == "gaussian_A"], "trial").assign(steps=999)
    assert claims.at_one_width(pd.concat([frame, longer])) == claims.at_one_width(frame)
    assert claims.at_one_width(frame.assign(**{"optimizer.name": "sgd"})) == []
    assert claims_full.full_finetuning(full().assign(**{"optimizer.name": "sgd"})) == []


def test_variants_show_it_among_the_adapters():
    frame = variants()
    assert "full finetuning" not in figures.caption("variants", [frame])
    part = frame[(frame["adapter.name"] == "lora") & (frame["init.name"] == "gaussian_A")]
    base = named(part, "full").assign(**{"adapter.name": "full", "init.name": "pretrained"})
    for column in ("summary.final_loss", "summary.final_eval_loss"):
        base[column] *= 0.5
    assert "full finetuning on" in figures.caption("variants", [pd.concat([frame, base], ignore_index=True)])

"""Claims about inits and variants, on records in which they hold and on records in which they do not."""

import numpy as np
import pandas as pd
import pytest
from synthetic import LRS, sweep
from synthetic_variants import BEST_RATIO, INITS, RANK_SLOPES, RATIOS, directions, named, ranks, ratios, variants, zoo

from analysis import claims_variants as claims
from analysis import theory
from analysis.claims import DIRECTION, NOT, REPRODUCED, UNKNOWN
from analysis.directions import correlations, quarters
from analysis.grid import Grid


def verdicts(rows):
    return {(row.number, row.task): row.verdict for row in rows}


def test_inits_that_differ_in_rate_more_than_in_loss():
    found = verdicts(claims.inits(zoo(noise=0.01)))
    assert found == {(n, task): REPRODUCED for n in ("8a", "8b") for task in ("feature_regression", "teacher_student")}
    alike = {init: (10 * loss, np.log(2) * (init == "pissa")) for init, (loss, _) in INITS.items()}
    found = verdicts(claims.inits(zoo(shifts=alike, noise=0.01, tasks=("teacher_student",))))
    assert found["8a", "teacher_student"] == NOT and found["8b", "teacher_student"] == NOT


def test_inits_that_differ_by_their_noise_alone_do_not_differ():
    """Each is Init[A] with seeds of its own; losses are less noisy than rates, so that plain spreads would differ for sure."""
    rates = lambda seed: [0.3 * x for x in np.random.default_rng(seed).standard_normal(5)]  # noqa: E731
    for seed in range(5):
        frame = sweep(task="teacher_student", widths=(128,), noise=0.001)
        base, tables = frame[frame["init.name"] == "gaussian_A"], []
        for i in range(12):
            log_lr, noise = np.log(base["optimizer.lr"]), base["seed"].map(dict(enumerate(rates(100 * seed + i))))
            losses = np.exp(-5 + 0.1 * (log_lr - np.log(0.02) - noise) ** 2)
            tables.append(
                named(base, f"{i}", **{"init.name": f"{i}", "summary.final_loss": losses, "status": "finished"})
            )
        frame = pd.concat(tables, ignore_index=True)
        [claim] = claims.inits(frame)
        assert claim.verdict != REPRODUCED, claim
        grid = Grid.of(frame)
        logs = [[np.log(best.lr), best.log_loss] for best in (grid.best(init, 128) for init in grid.inits)]
        assert np.subtract(*np.std(logs, axis=0)) > 0.05 > claim.low  # what noise does to the plain spreads


def test_an_init_whose_best_rate_is_at_the_edge_is_not_counted():
    away = INITS | {"mica": (0.0, 3.0)}
    frame = zoo(shifts=away, noise=0.01, tasks=("teacher_student",), edge={"A": 1e9})
    kept = frame[(frame["init.name"] != "mica") | (frame["optimizer.lr"] < 0.5)]
    assert {c.number: c.claim.split()[2] for c in claims.inits(frame)}["8a"] == "5"
    assert {c.number: c.claim.split()[2] for c in claims.inits(kept)}["8a"] == "4"


def test_one_rate_is_not_enough_data():
    for evaluate, frame in (
        (claims.inits, zoo(lrs=LRS[3:4])),
        (claims.lora_plus, ratios(lrs=LRS[3:4])),
        (claims.ranks, ranks(lrs=LRS[3:4])),
    ):
        rows = evaluate(frame)
        assert rows and {row.verdict for row in rows} == {UNKNOWN}


def test_what_vera_and_lora_train():
    assert verdicts(claims.parameters(variants())) == {("9a", "toys"): REPRODUCED, ("9b", "toys"): REPRODUCED}
    assert verdicts(claims.parameters(variants(wrong=1)))["9b", "toys"] == NOT


@pytest.mark.parametrize(
    ("adapter", "number", "text"), [("lora", "9a", "LoRA trains 2·n·r"), ("vera", "9b", "VeRA trains n + r")]
)
def test_shares_of_runs_that_train_so_many(adapter, number, text):
    """Of ten runs an adapter and task, on two tasks: one that trains another number, and one of which it is not known."""
    frame = variants(lrs=LRS[:1])
    only = lambda column: frame[frame["adapter.name"] == adapter][column].iloc  # noqa: E731
    [claim] = claims.parameters(frame[frame["adapter.name"] == adapter])
    assert (claim.number, claim.value, claim.task) == (number, 1.0, "toys") and text in claim.claim
    frame.loc[frame["run_id"] == only("run_id")[0], "summary.trainable_parameters"] = np.nan
    claim = next(row for row in claims.parameters(frame) if row.number == number)
    assert (claim.value, claim.verdict) == (1.0, UNKNOWN)
    frame.loc[frame["run_id"] == only("run_id")[-1], "summary.trainable_parameters"] = 1.0  # of a language model
    assert next(row for row in claims.parameters(frame) if row.number == number).value == 1.0
    toys = frame[(frame["adapter.name"] == adapter) & (frame["task.name"] == "teacher_student")]
    frame.loc[frame["run_id"] == toys["run_id"].iloc[0], "summary.trainable_parameters"] += 1
    claim = next(row for row in claims.parameters(frame) if row.number == number)
    assert (claim.value, claim.verdict) == (18 / 19, NOT)


def test_a_claim_on_inits_takes_three_and_names_how_many_it_takes():
    for count, expected in ((2, []), (3, ["8a"])):
        rows = claims.inits(zoo(shifts=dict(list(INITS.items())[:count]), tasks=("teacher_student",), seeds=(0,)))
        assert [row.number for row in rows if row.number == "8a"] == expected
    rows = claims.inits(zoo(tasks=("teacher_student",), noise=0.0))
    assert rows[0].claim == "std over 4 inits of log best lr, minus that of log best loss, noise taken out"
    # rates are shifted by 0, 1, -1 and 1 steps of the grid
    spread = np.log(2) * np.std([0, 1, -1, 1]) - np.std([0.0, 0.1, -0.1, 0.2])
    assert rows[0].value == pytest.approx(spread, abs=0.01) and rows[1].value == pytest.approx(0.25)


def moved(*points, adapter="lora", init="gaussian_A"):
    """Rows of (seed, step, direction, magnitude), a layer each."""
    frame = pd.DataFrame(points, columns=["seed", "step", "change/direction", "change/magnitude"])
    return frame.assign(**{"adapter.name": adapter, "init.name": init, "task.name": "language_model"})


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        (range(0, 21), [5, 10, 15, 20]),
        ([0, 1, 2, 10, 19, 20], [2, 10, 20]),  # 10 stands for the third, too
        ([0, 6, 20], [6, 20]),  # none but the start up to the first
        ([20], [20]),
        ([0], []),
        ([], []),
    ],
)
def test_quarters_end_at_the_logged_step_before(steps, kept):
    frame = moved(*((0, step, 1.0, 1.0) for step in steps))
    assert quarters(frame)["step"].tolist() == kept
    assert quarters(frame.assign(**{"adapter.name": "vera"})).empty
    assert quarters(frame.assign(**{"change/direction": np.nan})).empty


def test_correlations_over_all_points_and_within_quarters():
    """Seed 0 grows from quarter to quarter, within which layers go against each other; in seed 1 lengths do not change."""
    grows = [(0, 5, 1, 2), (0, 5, 2, 1), (0, 10, 11, 12), (0, 10, 12, 11)]
    frame = moved(*grows, (1, 5, 1, 3), (1, 10, 2, 3))
    x, y = np.array(grows)[:, 2:].T
    assert correlations(frame).values == pytest.approx([np.corrcoef(x, y)[0, 1], np.nan], nan_ok=True)
    assert correlations(frame, within=True).values == pytest.approx([-1, np.nan], nan_ok=True)
    turned = moved(*grows[:2], (0, 10, 11, 11), (0, 10, 12, 12), (0, 10, 13, 11))
    assert correlations(turned, within=True).values == pytest.approx([(-1 + 0) / 2])  # the mean of the quarters


def test_claims_on_directions_are_of_init_a_and_say_over_what():
    rows = claims.dora(directions(noise=0.0))
    assert [row.prediction for row in rows] == ["> 0", "< 0", "> 0", "< 0"]
    assert rows[0].claim == "LoRA, Init[A]: changes of length and direction, correlation over layers and quarters"
    assert rows[3].claim.startswith("DoRA, Init[A]") and rows[3].claim.endswith("over layers of a quarter of training")
    assert rows[0].value == pytest.approx(1.0) and -1 < rows[1].value < -0.5  # of x and x, of x and 1/x
    frame = directions()
    other = frame["init.name"] == "gaussian_B"
    frame.loc[other, "change/magnitude"] = -frame.loc[other, "change/magnitude"]
    assert verdicts(claims.dora(frame)) == verdicts(rows) and claims.dora(frame[other]) == []
    assert [row.number for row in claims.dora(frame[frame["adapter.name"] == "dora"])] == ["10b", "10d"]


def test_claims_on_ratios_name_their_inits():
    frame = ratios(seeds=(0,), lrs=LRS[2:9])
    frame["init.name"] = frame["init.name"].replace({"gaussian_A": "gaussian_AB"})
    rows = claims.lora_plus(frame)
    assert [row.number for row in rows] == ["11", "11b"]
    assert [row.claim for row in rows] == [
        f"{name}: best lr of B over that of A" for name in ("gaussian_AB", "Init[B]")
    ]


def test_predictions_for_ranks():
    """lr ∝ r^(-(1 - γ)/2) for s = r^-γ under Init[A], r^0 under Init[B]; of two others as near, that on the measured side."""
    predicted = {("A", -power): -(1 - power) / 2 for power in (0, 0.5, 1)} | {("B", 0): 0}
    assert predicted == theory.RANK_POWERS
    assert [theory.rank_alternative(-0.25, measured) for measured in (-0.3, -0.2)] == [-0.5, 0.0]
    assert [theory.rank_alternative(power, 9.0) for power in (0.0, -0.5)] == [-0.25, -0.25]


def test_claims_on_ranks_name_the_scale():
    rows = claims.ranks(ranks(seeds=(0,)))
    assert [row.claim for row in rows] == [
        f"Init[{init}], s = {s}: best lr against rank"
        for init, s in (("A", 1), ("A", "r^-0.5"), ("A", "r^-1"), ("B", 1))
    ]
    assert [row.prediction for row in rows] == ["r^-0.5", "r^-0.25", "r^0", "r^0"]


def test_directions_and_lengths():
    found = verdicts(claims.dora(directions()))
    assert found == {(f"10{letter}", "language_model"): REPRODUCED for letter in "abcd"}
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


def test_a_seed_that_wants_the_lowest_ratio_widens_the_interval():
    frame = ratios(noise=0.01)
    ratio = frame["optimizer.lr_ratio"]
    low = np.exp(0.05 * (4 * np.log(ratio / RATIOS[0]) - (np.log(ratio) - np.log(BEST_RATIO["A"])) ** 2))
    frame["summary.final_loss"] *= np.where(frame["seed"] == 0, low, 1.0)
    claim = next(row for row in claims.lora_plus(frame) if row.number == "11a")
    assert claim.value > 1 and claim.low == RATIOS[0] and claim.verdict == DIRECTION


def test_ratios_whose_best_rate_is_at_the_edge_are_not_enough_data():
    lr = 0.05  # Init[A]'s best
    frame = ratios(noise=0.01)
    verdict = lambda rows: verdicts(rows)["11a", "teacher_student"]  # noqa: E731
    assert verdict(claims.lora_plus(frame[frame["optimizer.lr"] > lr / 8])) == REPRODUCED
    assert verdict(claims.lora_plus(frame[frame["optimizer.lr"] > lr])) == UNKNOWN


def test_ranks_that_do_not_learn_are_left_out():
    slopes = {row.number: row.value for row in claims.ranks(ranks(stuck=2, noise=0.01))}
    assert slopes == pytest.approx({"12a": -0.5, "12b": -0.25, "12c": 0.0, "12d": 0.0}, abs=0.02)
    assert {row.verdict for row in claims.ranks(ranks(stuck=4, noise=0.01))} == {UNKNOWN}  # two of four are left


@pytest.mark.parametrize(("off", "verdict"), [(0.10, REPRODUCED), (0.15, DIRECTION)])
def test_an_exponent_nearer_to_another_scales_is_not_reproduced(off, verdict):
    """Predictions lie 1/4 apart, so that half the distance is 1/8."""
    slopes = RANK_SLOPES | {("A", -1.0): off}
    assert verdicts(claims.ranks(ranks(slopes=slopes, noise=0.001)))["12c", "feature_regression"] == verdict


def test_exponents_in_the_rank():
    rows = claims.ranks(ranks(noise=0.01))
    assert verdicts(rows) == {(n, "feature_regression"): REPRODUCED for n in ("12a", "12b", "12c", "12d")}
    assert [row.value for row in rows] == pytest.approx([-0.5, -0.25, 0.0, 0.0], abs=0.02)
    wrong = {key: -0.8 if slope == 0 else 0.7 for key, slope in RANK_SLOPES.items()}
    assert set(verdicts(claims.ranks(ranks(slopes=wrong, noise=0.01))).values()) == {NOT}


def test_too_few_seeds_are_not_enough_data():
    for evaluate, frame in (
        (claims.inits, zoo(seeds=(0, 1))),
        (claims.lora_plus, ratios(seeds=(0, 1))),
        (claims.ranks, ranks(seeds=(0, 1))),
    ):
        assert all(row.verdict == UNKNOWN and np.isnan(row.low) for row in evaluate(frame))

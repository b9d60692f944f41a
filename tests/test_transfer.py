"""Rates for sizes that were not trained, and claim 13, on synthetic runs whose exponent and whose regrets are known."""

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from test_advice import runs

from analysis import claims_transfer, transfer
from analysis.__main__ import main
from analysis.advice import sizes
from analysis.claims import DIRECTION, NOT, REPRODUCED, UNKNOWN
from analysis.grid import NotShown
from analysis.scaling import Estimate

POWERS = {"gaussian_A": -0.5, "gaussian_B": -1.0}
WIDTHS = (64, 256, 1024, 4096)


def sweep(
    powers=POWERS, widths=WIDTHS, field="task.width", noise=0.004, task="feature_regression", start=3.0, **fields
):
    """Runs whose best rate is 2^-3 at the first size and follows the powers; a loss of 2 there, 3 before training."""
    parts = []
    for size in widths:
        ways = {init: (-3 + power * np.log2(size / widths[0]), 2.0) for init, power in powers.items()}
        table = runs(ways, task=task, lrs=2.0 ** np.arange(-14, 3), noise=noise, start=start, **{field: size}, **fields)
        parts.append(table.assign(run_id=f"{size}-" + table["run_id"]))
    return pd.concat(parts, ignore_index=True)


def with_start(table):
    """As `transfer.sweeps` reads it: the loss before training in a row of step 0."""
    loss = "eval/loss" if table["task.name"].iloc[0] == "language_model" else "train/loss"
    return table.assign(step=0, **{loss: 3.0})


def test_the_rate_of_an_untrained_size_lies_in_its_interval():
    """From three sizes the fourth is met, within 95% intervals in nine of ten cases at least, over noise drawn anew."""
    rng, held = np.random.default_rng(0), []
    for _ in range(12):
        table = sweep(widths=WIDTHS[:3], noise=0.0)
        table["summary.final_loss"] += 0.01 * rng.normal(size=len(table))
        for name, part in sizes.ways(table, "task.width"):
            found = sizes.prediction(name, part, "task.width", 4096, None)
            truth = np.log(2.0) * (-3 + POWERS[name.removeprefix("init=")] * 6)
            held.append((found.lr.low <= truth <= found.lr.high, found.lr.low, found.lr.high, truth))
            assert found.sizes == [64, 256, 1024] and found.source is None and found.far == 4.0

    def check(held):
        assert np.mean([inside for inside, *_ in held]) >= 0.9

    check(held)
    rejects(check, [(low <= truth + np.log(4) <= high,) for _, low, high, truth in held])  # of a rate 4 times as high


@pytest.mark.parametrize(("field", "option"), [("task.width", "width"), ("steps", "steps"), ("adapter.rank", "rank")])
def test_every_size_is_carried_over_along_its_own_field(field, option):
    extra = {"adapter.alpha": 1.0} if option == "rank" else {}
    [(_, first), *_] = sizes.ways(sweep(field=field, **extra), field)
    found = sizes.prediction("init=gaussian_A", first, field, 16384, None)
    assert abs(found.exponent.value + 0.5) < 0.05 and sizes.OPTIONS[option] == field
    assert found.lr.low <= np.log(2.0**-7) <= found.lr.high and f"{field}=16384: lr 0.00" in sizes.told(found)


def test_one_size_borrows_the_exponent_of_the_records(tmp_path):
    table = sweep(widths=(128,), task="teacher_student")
    (_, part), *_ = sizes.ways(table, "task.width")
    found = sizes.prediction("init=gaussian_A", part, "task.width", 512, tmp_path)
    assert found.source == "lr_vs_width" and -0.85 < found.exponent.value < -0.6
    assert found.lr.value == pytest.approx(np.log(2.0**-3) + found.exponent.value * np.log(4), abs=0.1)
    assert found.exponent.low * np.log(4) > found.lr.low - np.log(2.0**-3)  # the noise of the rate here comes on top
    with pytest.raises(
        NotShown, match=r"no record says how the best rate of teacher_student moves; train the same at 2"
    ):
        sizes.prediction("x", part.assign(**{"adapter.rank": 4}), "adapter.rank", 8, tmp_path)


def test_far_beyond_what_was_trained_is_said():
    (_, part), *_ = sizes.ways(sweep(widths=WIDTHS[:3]), "task.width")
    near, far = (sizes.told(sizes.prediction("x", part, "task.width", size, None)) for size in (2048, 2**17))
    assert "130 times beyond them, of which the interval knows nothing" in far and "beyond" not in near


def test_regrets_are_those_of_the_parabola():
    """A rate that is off by a factor of 2^k costs 0.02·k² nats of 1 nat gained; the fit costs nothing, the same rate that of the
    last step of width: 4^(1/2) = 2 and 4."""
    [found] = transfer.sweeps(with_start(sweep(noise=0.0)))

    def check(found):
        for init, doublings in (("gaussian_A", 1), ("gaussian_B", 2)):
            fit, theory, same = transfer.regrets(found, init)
            assert fit.value == pytest.approx(0, abs=1e-6) and theory.value == pytest.approx(0, abs=1e-6)
            # Means over seeds are of logs, which is not the mean of a difference: half a percent.
            assert same.value == pytest.approx(0.02 * doublings**2, rel=1e-2)

    check(found)
    wrong = dict.fromkeys(found.powers, 0.5)
    rejects(check, type(found)(found.symbol, found.what, found.grid, wrong))


def test_a_rate_at_which_seeds_diverge_loses_all():
    """4 doublings above the best they diverge: along n^-2 the same rate is 4 doublings off."""
    [found] = transfer.sweeps(with_start(sweep(powers={"gaussian_A": -2.2}, widths=(1, 2, 4, 16), noise=0.0)))
    assert transfer.regrets(found, "gaussian_A")[2].value == 1.0


def verdicts(table):
    return {claim.number: claim.verdict for claim in claims_transfer.transfer(with_start(table))}


def test_claim_13_can_be_reproduced_and_can_fail():
    whole = verdicts(sweep())
    assert (whole["13a"], whole["13c"]) == (REPRODUCED, REPRODUCED) and whole["13b"] in (
        DIRECTION,
        NOT,
    )  # both are right
    bent = pd.concat(
        [sweep(widths=WIDTHS[:3]), sweep(powers={"gaussian_A": 0.0, "gaussian_B": 0.0}, widths=(64, 4096))]
    )
    bent = bent.drop_duplicates(["init.name", "task.width", "optimizer.lr", "seed"])
    bent["run_id"] = [f"{i}" for i in range(len(bent))]
    assert verdicts(bent)["13a"] == NOT and verdicts(bent)["13c"] == NOT
    few = sweep()
    assert set(verdicts(few[few["seed"] < 3]).values()) == {UNKNOWN}
    assert verdicts(sweep(widths=WIDTHS[:2])) == {}  # no size to carry over to
    steps = sweep(field="steps", task="language_model")
    assert verdicts(steps).keys() == {"13a", "13c"}  # theory says nothing of steps


def test_a_rate_between_those_of_the_grid_costs_nothing_where_it_is_the_best():
    """Bests a quarter of the way between rates of the grid: the line between these lies above the valley for both."""
    table = sweep(powers={"gaussian_A": -0.4}, noise=0.0)
    [found] = transfer.sweeps(with_start(table))
    assert abs(transfer.regrets(found, "gaussian_A")[0].value) < 1e-3


def test_a_size_that_was_trained_is_on_the_line_of_all():
    (_, part), *_ = sizes.ways(sweep(widths=WIDTHS[:2]), "task.width")
    found = sizes.prediction("x", part, "task.width", 64, None)
    assert np.exp(found.lr.value) == pytest.approx(2.0**-3, rel=0.1) and np.isfinite(found.lr.low)


def test_a_seed_that_lacks_a_size_does_not_cost_the_others():
    table = sweep(field="steps", widths=WIDTHS[:3])
    (_, part), *_ = sizes.ways(table[(table["seed"] < 4) | (table["steps"] == 64)], "steps")
    with pytest.warns(UserWarning, match="of seeds 0, 1, 2, 3"):
        found = sizes.prediction("x", part, "steps", 4096, None)
    assert found.sizes == [64, 256, 1024]


@pytest.mark.parametrize("fields", [{"optimizer.name": "sgd"}, {"adapter.name": "vera"}, {"init.name": "pissa"}])
def test_no_exponent_is_borrowed_from_what_is_trained_otherwise(fields, tmp_path):
    table = sweep(widths=(128,), task="teacher_student").assign(**fields)
    (_, part), *_ = sizes.ways(table[table["seed"] >= 0].drop_duplicates(["optimizer.lr", "seed"]), "task.width")
    with pytest.raises(NotShown, match=f"no record says how the best rate of .*{next(iter(fields.values()))}.* moves"):
        sizes.prediction("x", part, "task.width", 512, tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.0, 0.009, REPRODUCED), (0.0, 0.02, DIRECTION), (0.008, np.nan, UNKNOWN)]
)
def test_the_goal_is_judged_by_the_whole_interval(low, high, verdict):
    assert claims_transfer.bounded(Estimate(0.008, low, high)) == verdict
    assert claims_transfer.bounded(Estimate(0.011, 0.0, 0.02)) == NOT


def test_the_command_says_rates_for_sizes(tmp_path, capsys):
    arguments = ["advise", "--experiment", "lm_lr_sensitivity", "--width", "512"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("task.width=512: lr 0.00") == 2 and "fitted to task.width=32, 64 and 128" in out
    assert main([*arguments[:-2], "--rank", "16"]) == 1
    assert (
        "--rank: these runs have a best rate off the edge at one adapter.rank only, and no record says"
        in capsys.readouterr().err
    )
    for bad in ("0", "-1", "x", "1e3", str(10**9)):
        with pytest.raises(SystemExit, match="2"):
            main([*arguments[:-1], bad])
        assert "must be an integer from 1" in capsys.readouterr().err

"""The table at the end of a sweep: a row a setting, the best rate, what ties with it, and intervals over seeds."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import configure, rejects
from scipy import stats

from runner.config import Config
from runner.sweeps.best import best_learning_rates


def rows(losses, *overrides, start=4.0):
    """`losses`: rate -> final loss of each seed, None where there is none."""
    return [
        {"config": configure(*overrides, f"optimizer.lr={lr}", f"seed={seed}"), "loss": loss, "start": start}
        for lr, of_seeds in losses.items()
        for seed, loss in enumerate(of_seeds)
    ]


def only(some):
    [row] = best_learning_rates(some).to_dict("records")
    return row


def test_every_axis_that_varies_has_rows_of_its_own():
    """Mixed, they would share a best rate that is neither's."""
    of_2 = rows({0.1: [1.0], 0.2: [2.0], 0.4: [3.0]}, "adapter.rank=2")
    of_8 = rows({0.1: [3.0], 0.2: [2.0], 0.4: [0.5]}, "adapter.rank=8")

    def check(table):
        assert dict(zip(table["adapter.rank"], table["best lr"], strict=True)) == {"2": "0.1", "8": "0.4"}

    check(best_learning_rates([*of_8, *of_2]))
    rejects(check, best_learning_rates([*of_2, *({**row, "loss": 1.0} for row in of_8)]))
    for field in ("optimizer.lr_ratio=2", "init.scale=3", "steps=7", "task.residual=false", "dtype=float64"):
        assert field.partition("=")[0] in best_learning_rates([*of_2, *rows({0.1: [1.0]}, "adapter.rank=2", field)])
    assert "optimizer" in best_learning_rates([*of_2, *rows({0.1: [1.0]}, "adapter.rank=2", "optimizer=sgd")])


def test_what_follows_from_the_choices_and_where_runs_are_kept_are_no_axes():
    table = best_learning_rates(
        [
            *rows({0.1: [1.0], 0.2: [3.0]}),
            *rows({0.1: [1.0]}, "task=feature_regression", "adapter=vera", "adapter.rank=32", "outputs=elsewhere"),
        ]
    )
    texts = ["best lr", "as good", "training loss", "95% interval", "at start", "seeds", "lrs", ""]
    assert list(table) == ["task", "adapter", "init", "width", *texts]
    [row] = rows({0.1: [1.0]})
    elsewhere = row | {"config": dataclasses.replace(row["config"], experiment="mine")}
    assert list(best_learning_rates([row, elsewhere])["experiment"]) == ["mine", "scratch"]


def test_best_is_the_geometric_mean_with_students_interval():
    losses = [1.0, 2.0, 4.0, 1.5]

    def check(row):
        low, high = stats.t.interval(0.95, 3, loc=np.log(losses).mean(), scale=stats.sem(np.log(losses)))
        assert row["training loss"] == f"{stats.gmean(losses):.3g}" and row["at start"] == "4"
        assert row["95% interval"] == f"[{math.exp(low):.3g}, {math.exp(high):.3g}]" and row["seeds"] == 4

    check(only(rows({0.1: losses, 0.2: [9.0] * 4})))
    rejects(check, only(rows({0.1: [1.0, 2.0, 4.0, 1.6], 0.2: [9.0] * 4})))


def test_one_seed_has_no_interval_and_no_ties():
    row = only(rows({0.1: [2.0], 0.2: [1.0], 0.4: [3.0]}))
    assert row["95% interval"] == "1 seed: none" and row["as good"] == "" and row[""] == ""


@pytest.mark.parametrize(
    ("of_rates", "as_good"),
    [
        ([9.0, 1.0, 9.0, 9.0, 9.0], "0.2"),
        ([9.0, 1.0, 1.01, 1.01, 9.0], "0.2 to 0.8"),
        ([9.0, 1.0, 9.0, 1.01, 9.0], "0.2"),  # a rate behind one that is worse
        ([1.01, 1.0, None, 1.01, 9.0], "0.1 to 0.2"),  # or behind one that breaks down
    ],
)
def test_rates_that_tie_within_the_noise_of_the_seeds_are_a_range(of_rates, as_good):
    """Seed by seed, against the best: a difference of 1% with a noise of 3% is a tie, whatever the seeds' own spread."""
    noise, spread = np.array([0.97, 1.03, 1.0]), np.array([1.0, 50.0, 2.0])
    losses = {}
    for lr, level in zip([0.1, 0.2, 0.4, 0.8, 1.6], of_rates, strict=True):
        losses[lr] = [None] * 3 if level is None else level * spread * (1 if level == 1.0 else noise)
    assert only(rows(losses))["as good"] == as_good


def test_a_rate_with_a_run_that_has_no_loss_does_not_compete():
    assert only(rows({0.1: [2.0, 2.0], 0.2: [1.0, None], 0.4: [3.0, 3.0]}))["best lr"] == "0.1"
    assert best_learning_rates(rows({0.1: [None]})).empty


def test_edges_are_flagged_and_zeros_printed():
    assert only(rows({0.1: [1.0], 0.2: [2.0]}))[""] == "edge of the grid"
    row = only(rows({0.1: [2.0, 2.0], 0.2: [0.0, 0.0], 0.4: [0.0, 0.0], 0.8: [3.0, 3.0]}))
    assert (row["best lr"], row["as good"], row["training loss"], row["95% interval"]) == ("0.2", "0.2 to 0.4", "0", "")


def test_numbers_have_the_digits_that_tell_them_apart():
    table = best_learning_rates([*rows({0.1: [1.00001]}, "steps=1"), *rows({0.1: [1.00002]}, "steps=2")])
    assert list(table["training loss"]) == ["1.00001", "1.00002"]
    assert only(rows({0.1: [1.00002]}))["training loss"] == "1"


def test_held_out_losses_are_called_so():
    model = "task=language_model"
    assert only(rows({0.1: [1.0]}, model))["held-out loss"] == "1"
    assert list(best_learning_rates([*rows({0.1: [1.0]}, model), *rows({0.1: [1.0]})])["loss is"]) == [
        "held-out",
        "training",
    ]


def test_a_start_from_a_folder_is_named_by_it():
    config: Config = configure("task=language_model")
    config.adapter.start_from = "some/adapter"
    assert only([{"config": config, "loss": 1.0, "start": None}])["init"] == "adapter"


def test_fields_of_any_kind_are_shown_as_they_are_typed():
    """Lists, too, which no table sorts; and gaps do not turn integers into decimals."""
    model = "task=language_model"
    table = best_learning_rates([*rows({0.1: [1.0]}, model, "task.targets=[v_proj]"), *rows({0.1: [1.0]}, model)])
    assert list(table["task.targets"]) == ["[v_proj]", "all-linear"]
    ranks = [*rows({0.1: [1.0]}, "adapter.rank=10"), *rows({0.1: [1.0]}, "adapter.rank=9")]
    assert list(best_learning_rates(ranks)["adapter.rank"]) == ["9", "10"]
    keys = [rows({0.1: [1.0]}, "adapter=vera", f"adapter.projection_key={key}") for key in ("null", "3")]
    assert list(best_learning_rates([*keys[0], *keys[1]])["adapter.projection_key"]) == ["3", "null"]

"""A run in a few numbers, against losses whose summary can be seen."""

import json

import numpy as np
import pytest

from runner.training.log import summarise

SUMMARIES = [  # losses, diverged at -> expected entries
    ([4.0, 2.0, 3.0, 1.0], None, {"best_loss": 1.0, "final_loss": 1.0, "largest_spike": 0.25, "rise_fraction": 1 / 3}),
    ([4.0, 1.0, 2.0, 3.0], None, {"best_loss": 1.0, "final_loss": 3.0, "largest_spike": 0.5, "rise_fraction": 2 / 3}),
    ([2.0, 1.0], None, {"largest_spike": 0.0, "rise_fraction": 0.0, "diverged_step": None}),
    ([1.0, np.inf], 1, {"best_loss": 1.0, "final_loss": None, "largest_spike": None, "rise_fraction": 1.0}),
    ([1.0, 500.0], 1, {"best_loss": 1.0, "final_loss": None, "largest_spike": 499.0, "diverged_step": 1}),
    ([np.nan], 0, {"initial_loss": None, "best_loss": None, "final_loss": None, "rise_fraction": 0.0}),
    ([0.0, 0.0], None, {"final_loss": 0.0, "largest_spike": None, "rise_fraction": 0.0}),
]


@pytest.mark.parametrize(("losses", "diverged", "expected"), SUMMARIES)
def test_summary(losses, diverged, expected):
    summary = summarise(np.array(losses), {"eval/loss": np.array(losses)}, diverged)
    assert {name: summary[name] for name in expected} == expected
    json.dumps(summary, allow_nan=False)


def test_the_best_accuracy_is_the_highest_and_the_best_loss_the_lowest():
    values = {"eval/loss": np.array([3.0, np.nan, 1.0, 2.0]), "eval/accuracy": np.array([0.2, np.nan, 0.9, 0.5])}
    summary = summarise(np.array([3.0, 2.0, 1.0, 1.0]), values, None)
    assert (summary["best_eval_loss"], summary["final_eval_loss"]) == (1.0, 2.0)
    assert (summary["best_eval_accuracy"], summary["final_eval_accuracy"]) == (0.9, 0.5)
    assert summarise(np.array([3.0]), values, 0)["final_eval_accuracy"] is None

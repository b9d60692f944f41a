"""A run in a few numbers, against losses whose summary can be seen."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import configure, rejects

from runner.config.identity import with_values
from runner.training.log import Log, count_rows, summarise
from runner.training.train import train

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
    assert [summary[f"{which}_eval_loss"] for which in ("initial", "best", "final")] == [3.0, 1.0, 2.0]
    assert [summary[f"{which}_eval_accuracy"] for which in ("initial", "best", "final")] == [0.2, 0.9, 0.5]
    assert summarise(np.array([3.0]), values, 0)["final_eval_accuracy"] is None


def test_rows_while_training_are_those_of_the_final_table():
    """In parts, up to the step that is reached or a run's end; together they are the table but for its last row."""
    config = configure("task.width=8", "task.teacher_width=8", "task.train_points=10", "steps=9", "eval.every=3")
    configs, parts, first = [config, with_values(config, {"optimizer.lr": 1e9})], [[], []], 0

    def stream(step, losses, log, stability):
        nonlocal first
        if step % 4 == 3 or step == 9:
            for k, rows in enumerate(log.between(first, stability.ends.clamp(max=step).tolist())):
                parts[k].append(rows)
            first = step

    outcomes = train(configs, stream)
    assert [outcome.status for outcome in outcomes] == ["finished", "diverged"]
    for rows, outcome in zip(parts, outcomes, strict=True):
        streamed = pd.concat(rows, ignore_index=True)
        pd.testing.assert_frame_equal(streamed, outcome.steps[:-1], check_dtype=False)
        rejects(pd.testing.assert_frame_equal, streamed, outcome.steps)


@pytest.mark.parametrize(("every", "evals"), [(1, 1), (1, 5), (4, 6), (7, 3), (100, 100), (20, 100), (5, 10)])
@pytest.mark.parametrize("looks", ["null", "1", "3", "9"])
def test_the_rows_of_a_log_are_counted_without_making_it(every, evals, looks):
    for steps in (1, 19, 20, 24):
        config = configure(f"steps={steps}", f"log.every={every}", f"eval.every={evals}", f"sharpness.every={looks}")
        assert count_rows(config) == len(Log([config], [], [], [], torch.device("cpu")).rows)

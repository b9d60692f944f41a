"""Runs that are stored but lack a column that is measured now; and results that vanish while a sweep goes on."""

import shutil

import pandas as pd
import pytest
from conftest import configure

from runner.config.registry import ADAPTERS
from runner.training.measure.layer import columns_of
from runner.training.measure.metrics import METRICS, Metric, norm
from runner.training.train import train

TOY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=3", "workers=1"]


@pytest.mark.parametrize("directions", ["false", "true"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_columns_that_a_run_will_have_are_known_beforehand(name, directions):
    config = configure(*TOY, f"adapter={name}", f"log.directions={directions}")
    [outcome] = train([config])
    assert ["step", "train/loss", "eval/loss", *columns_of(config)] == list(outcome.steps)


@pytest.fixture
def stored(cli, outputs, monkeypatch):
    """Two runs, from before a metric was added; the function reads their columns."""
    sweep = ["--multirun", *TOY, "seed=0,1"]
    assert cli(*sweep)[0] == 0
    monkeypatch.setitem(METRICS, "weight/new", Metric(lambda update: norm(update.A)))

    def columns():
        return [set(pd.read_parquet(file)) for file in sorted(outputs.glob("runs/scratch/*/steps.parquet"))]

    assert not any("weight/new" in of for of in columns())
    return sweep, columns


def test_runs_that_lack_a_column_are_trained_again_on_request(cli, stored):
    sweep, columns = stored
    assert "2 skipped" in cli(*sweep)[1]
    assert "2 finished" in cli(*sweep, "retrain=missing")[1] and all("weight/new" in of for of in columns())
    assert "2 skipped" in cli(*sweep, "retrain=missing")[1]


def test_a_result_stays_where_training_it_again_fails(cli, stored, monkeypatch):
    sweep, columns = stored
    before = columns()

    def fails(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr("runner.sweeps.executors.base.train", fails)
    code, out, _ = cli(*sweep, "retrain=missing")
    assert code == 1 and "2 failed" in out and columns() == before
    assert "2 skipped" in cli(*sweep)[1]


def test_results_that_vanish_while_the_sweep_goes_on_are_not_reported_as_done(cli, outputs, monkeypatch):
    """Somebody removes the folder between two stacks."""
    calls = []

    def removing(configs, progress, ahead):
        if len(calls) == 1:
            shutil.rmtree(outputs / "runs")
        calls.append(configs)
        return train(configs, progress)

    monkeypatch.setattr("runner.sweeps.executors.base.train", removing)
    code, out, _ = cli("--multirun", *TOY, "seed=0,1")
    assert code == 1 and "1 finished, 1 failed" in out
    assert f"failed: {outputs}/runs/scratch: runs were removed while the sweep went on" in out
    assert "1 finished, 1 skipped" in cli("--multirun", *TOY, "seed=0,1")[1]

"""Records: what is kept of an experiment's runs, to which precision, and when it is not replaced."""

import shutil

import pandas as pd
import pytest
from synthetic import sweep

from analysis import figures
from analysis.grid import Grid
from analysis.scaling import features
from analysis.tables import records
from analysis.tables.load import layers, load

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20"]


def test_curves_are_kept_where_the_best_lr_is():
    frame = sweep()
    kept = records.distill(frame)
    grid = Grid.of(frame)
    for (init, width, lr), rows in kept.groupby(["init.name", "task.width", "optimizer.lr"]):
        best = grid.best(init, width).grid_lr == lr
        diverged = (rows["status"] == "diverged").all()
        assert diverged or set(rows["step"]) == {0, 1, 10, 19, 20}  # all of these are landmarks or the end
        assert not (best and diverged)


def test_a_record_is_not_replaced_by_fewer_runs(cli, outputs):
    arguments = [*TINY, "seed=0,1", "steps=2"]
    cli("--multirun", *arguments)
    assert "2 runs" in records.refresh(outputs, "scratch")
    [first, _] = (outputs / "runs" / "scratch").iterdir()
    shutil.rmtree(first)
    before = records.record_path(outputs, "scratch").read_bytes()
    assert "kept" in records.refresh(outputs, "scratch")
    assert records.record_path(outputs, "scratch").read_bytes() == before
    cli("--multirun", *arguments)
    assert "distilled" in records.refresh(outputs, "scratch")


def test_landmarks_that_were_not_logged_have_stand_ins():
    frame = sweep(noise=0.0)
    sparse = frame[frame["step"] != records.EARLY]
    kept = records.distill(sparse)
    pd.testing.assert_series_equal(features(sparse)["feature/delta_2"], features(kept)["feature/delta_2"], rtol=2**-16)
    assert {19, 20} <= set(kept.loc[kept["status"] == "finished", "step"])


def test_a_damaged_record_is_one_message(outputs):
    path = records.record_path(outputs, "scratch")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(records.MissingRecords, match="damaged"):
        records.read(outputs, "scratch")


MODEL = ["task=language_model", "task.width=32", "task.layers=1", "task.pretrain_steps=2", "task.sequence_length=16"]
MODEL += ["task.eval_sequences=2", "steps=12", "init=gaussian_A,gaussian_B", "optimizer.lr=1e-3,1e-2"]


def test_layers_are_distilled_at_the_best_rates(cli, outputs):
    """Of the runs at the best rate of each init, every layer's columns as they were stored, to five digits."""
    cli("--multirun", *MODEL, "log.layers=true", f"bases={outputs}/bases")
    name = "scratch" + records.LAYERS
    kept = figures.kept("lm_lr_sensitivity.layers")
    assert "2 runs" in records.refresh(outputs, name, kept=(*kept, "change/direction"))
    record, frame = records.read(outputs, name), load(outputs / "runs" / "scratch")
    best = records.at_best(frame)["run_id"].unique()
    assert set(record["run_id"]) == set(best) and record["layer"].nunique() == 7
    stored = layers(outputs / "runs" / "scratch", [best[0]])
    row = stored[(stored["step"] == 5) & (stored["layer"] == "model.layers.0.mlp.up_proj")].iloc[0]
    of_layer = record[(record["run_id"] == best[0]) & (record["step"] == 5) & (record["layer"] == row["layer"])].iloc[0]
    assert [column for column in record if "/" in column] == list(kept)  # of those that were measured
    for column in kept:
        assert of_layer[column] == pytest.approx(row[column], rel=2**-16) and row[column] > 0
    assert frame["task.text_columns"].unique().tolist() == ["text"]  # a list in the configuration


def test_without_layers_there_is_no_record_of_them(cli, outputs):
    cli("--multirun", *MODEL, f"bases={outputs}/bases")
    assert records.refresh(outputs, "scratch" + records.LAYERS) is None
    with pytest.raises(
        records.MissingRecords, match=r"no records of the layers of scratch; train its runs with log.layers=true"
    ):
        records.read(outputs, "scratch" + records.LAYERS)


@pytest.mark.parametrize("curves", [True, False])
def test_early_looks_at_the_sharpness_are_kept(curves):
    frame = sweep(widths=(128,), seeds=(0,))
    frame = frame[frame["status"] == "finished"]
    frame = pd.concat([frame, *(frame[frame["step"] == 1].assign(step=step) for step in (2, 3, 4, 5))])
    looked = frame.assign(**{"stability/critical_lr": frame["stability/critical_lr"].where(frame["step"] != 4)})
    kept = records.distill(looked, curves)
    steps = kept.groupby("run_id")["step"].agg(set)
    assert all({3, 5} <= of_run for of_run in steps) and (curves or not any(4 in of_run for of_run in steps))
    assert not {3, 5} & set(records.distill(looked.drop(columns="stability/critical_lr"), curves=False)["step"])


def test_an_experiment_varies_what_the_figure_of_its_name_says():
    assert figures.axes("lr_vs_width") == () and figures.axes("sharpness_vs_lr") == (
        "task.name",
        "task.parametrization",
    )
    assert figures.axes("variants.layers") == figures.axes("variants") and figures.axes("advise_minilm") == ("steps",)

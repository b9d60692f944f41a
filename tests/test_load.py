"""From run directories to tables and records: nothing lost, damage named, settings not mixed."""

import json
import re
import warnings

import pandas as pd
import pytest
import yaml
from conftest import rejects
from synthetic import sweep

import analysis
from analysis.grid import Grid, Mixture
from analysis.tables import records, settings
from analysis.tables.load import DamagedRun, per_run

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=150"]


@pytest.fixture
def runs(cli, outputs):
    cli("--multirun", *TINY, "init=gaussian_A,gaussian_B", "optimizer.lr=1e-2,1e6", "seed=0,1")
    return outputs / "runs" / "scratch"


def test_a_table_holds_what_the_files_hold(runs):
    steps, per_run = analysis.load(runs), analysis.runs(runs)
    assert len(per_run) == 8 and set(per_run["status"]) == {"finished", "diverged"}
    for _, run in per_run.iterrows():
        folder = runs / run["run_id"]
        stored = pd.read_parquet(folder / "steps.parquet")
        mine = steps.loc[steps["run_id"] == run["run_id"], stored.columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, stored)
        summary = json.loads((folder / "summary.json").read_text())
        assert all(run[f"summary.{name}"] == value for name, value in summary.items() if value is not None)
        assert run["task.width"] == 16 and run["init.name"] in ("gaussian_A", "gaussian_B")


def test_a_damaged_run_is_named_and_skipped(runs):
    victim = sorted(runs.iterdir())[3]
    (victim / "summary.json").write_text("{}")
    with pytest.warns(DamagedRun, match=victim.name):
        assert len(analysis.runs(runs)) == 7


def flip_a_byte(file):
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "steps.parquet"])
def test_one_changed_byte_is_damage(runs, name):
    """Which `analysis.runs` sees in the files that it reads."""
    victim = sorted(runs.iterdir())[3]
    flip_a_byte(victim / name)
    with pytest.warns(DamagedRun, match=f"{victim.name}: ValueError: {name} differs from its checksum"):
        assert analysis.load(runs)["run_id"].nunique() == 7
    if name != "steps.parquet":
        with pytest.warns(DamagedRun, match=victim.name):
            assert len(analysis.runs(runs)) == 7


def test_a_run_without_its_steps_is_damaged(runs):
    victim = sorted(runs.iterdir())[3]
    (victim / "steps.parquet").unlink()
    for read in (analysis.load, analysis.runs):
        with pytest.warns(DamagedRun, match=victim.name):
            assert read(runs)["run_id"].nunique() == 7


def flattened(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else value


def merged(folder):
    """The table by pandas alone, run by run."""
    rows, steps = [], []
    for run in sorted(folder.glob("*/meta.json")):
        meta, run = json.loads(run.read_text()), run.parent
        flat = dict(flattened(yaml.safe_load((run / "config.yaml").read_text())))
        summary = {f"summary.{k}": v for k, v in json.loads((run / "summary.json").read_text()).items()}
        rows.append({"run_id": run.name, "status": meta["status"]} | flat | summary)
        steps.append(pd.read_parquet(run / "steps.parquet").assign(run_id=run.name))
    return pd.DataFrame(rows).merge(pd.concat(steps), on="run_id")


def same_table(table, expected):
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    for column in [name for name in expected if expected[name].dtype == object]:
        assert [type(x) for x in table[column]] == [type(x) for x in expected[column]], column


def test_runs_of_many_kinds_make_the_table_that_pandas_makes(cli, runs):
    """With columns of some runs only, numbers that are missing in others, and runs of different length."""
    cli(*TINY, "steps=7", "seed=5", "log.directions=true", "optimizer.clip=1.0")
    cli(*TINY, "steps=5", "adapter=vera", "init=vera_b0")
    cli("task=feature_regression", "task.width=16", "steps=3", "init=zero", "optimizer=sgd")
    table, expected = analysis.load(runs), merged(runs)
    same_table(table, expected)
    assert {"change/direction", "grad/d", "task.teacher_width"} <= set(table) and table["grad/d"].isna().any()
    same_table(analysis.runs(runs), per_run(expected))
    rejects(same_table, table, expected.astype({"step": float}))
    rejects(same_table, table.assign(seed=0), expected)


def test_runs_without_a_result_are_not_data(runs):
    meta = next(runs.iterdir()) / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"status": "interrupted"}))
    assert len(analysis.runs(runs)) == 7


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        analysis.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        analysis.load(tmp_path)


def test_a_record_answers_the_same_questions(runs, outputs):
    """Distilling drops steps and digits (17 bits are kept, so 2^-17 is the largest error) but no run."""
    records.refresh(outputs, "scratch")
    path = records.record_path(outputs, "scratch")
    full, record = analysis.load(runs), analysis.load(path)
    places = [name for name in full.columns if name.startswith(records.PLACES)]
    assert not set(places) & set(record.columns), "a record must not name folders of this machine"
    of_record, of_runs = (each.sort_values("run_id", ignore_index=True) for each in map(analysis.runs, (path, runs)))
    pd.testing.assert_frame_equal(of_record, of_runs.drop(columns=places))

    def keeps(step):
        columns = ["run_id", "train/loss", "feature/Z_A", "balance"]
        a, b = (
            frame.loc[frame["step"] == step, columns].sort_values("run_id").reset_index(drop=True)
            for frame in (full, record)
        )
        assert a["run_id"].tolist() == b["run_id"].tolist()
        pd.testing.assert_frame_equal(a, b, check_dtype=False, rtol=2**-17)

    for step in (0, 1, records.EARLY, 150):
        keeps(step)
    assert len(record) < len(full)


def test_unlike_settings_are_not_averaged():
    frame = sweep(noise=0.0)
    trial = sweep(noise=0.0, seeds=(7,)).assign(steps=2)
    trial["run_id"] = "trial-" + trial["run_id"]

    def check(kept):
        assert set(kept["steps"]) == {20} and kept["run_id"].nunique() == frame["run_id"].nunique()

    with pytest.warns(UserWarning, match="runs differ in steps.*leaving out"):
        check(settings.one_setting(pd.concat([frame, trial])))
    rejects(check, pd.concat([frame, trial]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settings.one_setting(frame).equals(frame)  # inits, widths, rates and seeds are axes, not settings


def test_an_init_keeps_its_commonest_options_whatever_others_have():
    frame = sweep(noise=0.0)
    is_B = frame["init.name"] == "gaussian_B"
    frame["init.subtract"] = pd.Series(True, frame.index, dtype=object).where(is_B, None)
    trial = frame[is_B & (frame["seed"] == 0)].assign(**{"init.subtract": False})
    trial["run_id"] = "trial-" + trial["run_id"]
    with pytest.warns(UserWarning, match="runs differ in init.subtract: using the .* with init.subtract=true"):
        kept = settings.one_setting(pd.concat([frame, trial]))
    assert set(kept["run_id"]) == set(frame["run_id"])


def test_runs_for_one_place_of_a_grid_are_refused_with_what_they_differ_in():
    frame = sweep()
    for field in ("adapter.rank", "optimizer.lr_ratio"):
        mixed = pd.concat([frame.assign(**{field: r}, run_id=f"{r}" + frame["run_id"]) for r in (4, 8)])
        with pytest.raises(Mixture, match=rf"differ in {re.escape(field)}, and this figure"):
            Grid.of(mixed)
        with pytest.warns(UserWarning, match=f"runs differ in {field}"):
            Grid.of(settings.one_setting(mixed))


def test_a_seed_with_missing_runs_is_left_out_and_told():
    frame = sweep(noise=0.0)
    full = frame["run_id"].nunique()
    extra = frame[(frame["seed"] == 0) & (frame["optimizer.lr"] == 0.25)].assign(seed=9)
    extra["run_id"] = "extra-" + extra["run_id"]
    wider = frame[(frame["seed"] == 0) & (frame["task.width"] == 1024)].assign(**{"task.width": 4096})
    wider["run_id"] = "wider-" + wider["run_id"]
    hole = frame[frame["run_id"] != frame["run_id"].iloc[0]]
    for given, runs in ((pd.concat([frame, extra]), full), (pd.concat([frame, wider]), full), (hole, full * 4 // 5)):
        with pytest.warns(UserWarning, match="not every seed has every run"):
            assert settings.balanced(given)["run_id"].nunique() == runs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settings.balanced(frame) is frame


def test_seeds_may_have_bases_of_their_own():
    """Runs of one setting all the same; of one seed on two bases it is that of most runs."""
    frame = sweep(task="language_model")
    of_seed = frame.assign(**{"task.base_seed": (frame["seed"] > 2).astype(int)})
    [kept] = settings.comparable(of_seed, [])  # a warning would be an error
    assert kept["run_id"].nunique() == frame["run_id"].nunique()
    full = sweep(task="language_model", changes={("A", "lr"): -1.0})
    full = full[full["init.name"] == "gaussian_A"].assign(**{"init.name": "pretrained", "adapter.name": "full"})
    full = full.assign(**{"run_id": "full-" + full["run_id"], "task.base_seed": (full["seed"] > 2).astype(int)})
    [kept] = settings.comparable(pd.concat([of_seed.assign(**{"adapter.name": "lora"}), full]), [])
    assert set(kept["adapter.name"]) == {"lora", "full"} and kept["seed"].nunique() == 5
    other = frame[frame["seed"] == 0].assign(**{"task.base_seed": 7, "run_id": "other-" + frame["run_id"]})
    with pytest.warns(settings.LeftOut, match=r"runs differ in task\.base_seed"):
        [kept] = settings.comparable(pd.concat([frame.assign(**{"task.base_seed": 0}), other]), [])
    assert set(kept["task.base_seed"]) == {0}

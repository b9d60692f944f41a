"""Recorded runs that are trained again: to the bit, within tolerance, or different; and what is no record of this version."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import configure, rejects

from analysis.tables.load import load
from analysis.tables.records import LAYERS, distill, record_path, refresh
from analysis.verify import CLOSE, DIFFERENT, SAME, SHARE, compare, config_of, drawn, main, parse
from runner.config import ConfigError
from runner.config.identity import NOT_IDENTITY, as_kept, run_id, with_values
from runner.sweeps.execute import execute

ROOT = Path(__file__).resolve().parent.parent
SIZES = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=12"]
KINDS = [
    ["adapter=vera", "adapter.rank=8", "optimizer=sgd", "optimizer.momentum=0.5"],
    ["task=feature_regression", "init=corda", "init.examples=7", "optimizer.clip=0.5", "log.weights=true"],
    ["task=sine", "adapter=rslora", "init=gaussian_AB", "optimizer=signsgd", "optimizer.schedule=cosine"],
    ["task=language_model", "task.targets=[q_proj,v_proj]", "task.dataset=some/data", "task.text_columns=[a,b]"],
    ["task=language_model", "task.targets=[q_proj]", "task.width=32"],
    ["task=linear", "adapter=dora", "adapter.rank=2", "task.outputs=5", "init.scale=2"],
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(root folder, loaded runs) of three seeds at two rates, with a record."""
    outputs = tmp_path_factory.mktemp("recorded")
    base = configure(*SIZES, f"outputs={outputs}", "workers=1")
    execute([with_values(base, {"optimizer.lr": lr, "seed": seed}) for lr in (1e-3, 1e-2) for seed in range(3)])
    refresh(outputs, "scratch")
    return outputs, load(outputs / "runs" / "scratch")


@pytest.mark.parametrize("overrides", KINDS, ids=lambda kind: kind[0])
def test_a_record_says_how_its_runs_were_configured(overrides, tmp_path):
    """Also behind gaps, which turn a table's integers into floats, and lists into texts, and beside a run with a field that came
    later, which others do not keep."""
    configs = [configure("steps=3"), configure(*overrides)]
    configs.append(with_values(configs[1], {"tf32": True}))
    rows = []
    for config in configs:
        tree = {name: value for name, value in as_kept(config).items() if name not in NOT_IDENTITY}
        frame = pd.json_normalize(tree | {"experiment": "scratch"})
        rows.append(frame.map(lambda x: ", ".join(x) if isinstance(x, list) else x).assign(run_id=run_id(config)))
    pd.concat(rows).to_parquet(tmp_path / "record.parquet")
    _, row, later = (row for _, row in pd.read_parquet(tmp_path / "record.parquet").iterrows())
    assert run_id(config_of(row, configs[0])) == run_id(configs[1]) == row["run_id"]
    assert config_of(later, configs[0]).tf32 and run_id(configs[2]) == later["run_id"] != row["run_id"]
    with pytest.raises(ConfigError, match="another version of this project recorded it"):
        config_of(row.mask(row.index == "seed", 1), configs[0])


def test_runs_trained_again_are_their_records(recorded, capsys):
    outputs, _ = recorded
    assert main(["--outputs", str(outputs), "--share", "0.4"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["scratch", "2", "0", "0", "0"]


def test_a_record_that_is_not_its_runs_is_told(recorded, capsys):
    outputs, _ = recorded
    path = record_path(outputs, "scratch")
    true = pd.read_parquet(path)
    last = true["step"] == 12
    try:
        true.assign(**{"train/loss": true["train/loss"].where(~last, true["train/loss"] * 1.001)}).to_parquet(path)
        assert main(["--outputs", str(outputs), "--share", "all"]) == 1
        out = capsys.readouterr().out
        assert out.count("it starts as the record does, and train/loss differs later") == 6
    finally:
        true.to_parquet(path)


def test_a_language_model_may_differ_as_processors_do(tmp_path, capsys):
    """Trained with library products, its numbers need only be near the record's."""
    sizes = "task.width=32 task.layers=1 task.pretrain_steps=0 task.sequence_length=16 task.eval_sequences=4 steps=4".split()
    base = configure("task=language_model", *sizes, f"outputs={tmp_path}", f"bases={tmp_path}/bases", "workers=1")
    execute([with_values(base, {"seed": seed}) for seed in range(3)])
    refresh(tmp_path, "scratch")
    record = pd.read_parquet(path := record_path(tmp_path, "scratch"))
    command = ["--outputs", str(tmp_path), "--bases", f"{tmp_path}/bases", "--share", "all"]
    assert main(command) == 0 and capsys.readouterr().out.splitlines()[1].split()[3] == "0"
    for factor, code, found in ((1 + 1e-5, 0, ["scratch", "0", "3", "0"]), (1.1, 1, ["scratch", "0", "0", "3"])):
        record.assign(**{"train/loss": record["train/loss"] * factor}).to_parquet(path)
        assert main(command) == code and capsys.readouterr().out.splitlines()[-1].split()[:4] == found


@pytest.mark.parametrize("folder", ["outputs", "outputs/full"])
def test_the_committed_records_are_of_this_version(folder):
    """So that they can be trained again. A sample of each: the identity of all is one function's."""
    template, seen = configure(), 0
    for path in (ROOT / folder / "records").glob("*.parquet"):
        if not path.stem.endswith(LAYERS):
            for _, row in drawn(pd.read_parquet(path), 0.02, 0).iterrows():
                config_of(row, template)  # or an error
                with pytest.raises(ConfigError):
                    config_of(row.mask(row.index == "run_id", "0" * 16), template)
                seen += 1
    assert seen > 20


def test_the_command_takes_one_in_a_hundred_or_all():
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "VERIFY"
    }

    def command(*arguments):
        full = ["make", "-n", "verify", *arguments]
        return subprocess.run(full, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert parse([]).share == SHARE == 0.01 and "--share" not in command()
    assert "analysis.verify --share all" in command("VERIFY=all") and parse(["--share", "all"]).share == 1


def changed(table, column, factor, steps):
    if factor == "dropped":
        return table.drop(columns=column)
    if isinstance(factor, str):
        return table.assign(**{column: table[column].where(~table["step"].isin(steps), factor)})
    return table.assign(**{column: table[column].where(~table["step"].isin(steps), table[column] * factor)})


@pytest.mark.parametrize(
    ("column", "factor", "steps", "fused", "verdict"),
    [
        ("train/loss", 1.0, [], True, SAME),
        ("train/loss", 1.0, [], False, SAME),
        ("param/A", 1 + 1e-4, [12], True, DIFFERENT),  # the fused engine promises bits
        ("param/A", 1 + 1e-4, [12], False, CLOSE),
        ("param/A", 1 + 1e-4, range(13), True, CLOSE),  # it starts elsewhere
        ("train/loss", 1.01, [0, 1], False, CLOSE),
        ("train/loss", 1.05, [0], False, DIFFERENT),
        ("train/loss", 1.05, [1], False, CLOSE),  # which a high rate may magnify at once
        ("grad/B", 1.05, [0], False, CLOSE),
        ("grad/B", 1.15, [0], False, DIFFERENT),
        ("summary.final_loss", 1 + 1e-9, range(13), True, DIFFERENT),
        ("summary.final_loss", 1 + 1e-9, range(13), False, CLOSE),
        ("summary.final_loss", 1e6, range(13), False, DIFFERENT),
        ("summary.final_loss", np.nan, range(13), False, DIFFERENT),
        ("step", 2, [12], True, DIFFERENT),
        ("train/loss", np.nan, [1], False, DIFFERENT),  # a number that is gone is no small difference
        ("param/A", np.nan, range(13), False, DIFFERENT),
        ("status", "diverged", range(13), True, DIFFERENT),
        ("param/A", "dropped", [], False, DIFFERENT),
    ],
)
def test_what_differs_is_weighed(recorded, column, factor, steps, fused, verdict):
    _, runs = recorded
    record, run = distill(runs), runs["run_id"].iloc[0]
    again = changed(runs[runs["run_id"] == run], column, factor, steps)
    assert compare("scratch", run, record, again, fused).verdict == verdict
    of_others = record.assign(**{"grad/W": np.nan})  # which only full finetuning has, elsewhere in the record
    assert compare("scratch", run, of_others, again, fused).verdict == verdict


def test_the_end_of_a_run_whose_setting_breaks_down_at_times_says_nothing(recorded):
    _, runs = recorded
    record, run = distill(runs), runs["run_id"].iloc[0]
    row = record[record["run_id"] == run].iloc[0]
    sibling = (record["optimizer.lr"] == row["optimizer.lr"]) & (record["run_id"] != run)
    again = changed(runs[runs["run_id"] == run], "summary.final_loss", 1e6, range(13))

    def check(record):
        assert compare("scratch", run, record, again, False).verdict == CLOSE

    check(record.assign(**{"summary.final_loss": record["summary.final_loss"].mask(sibling)}))
    rejects(check, record)


def test_first_steps_of_any_adapter_are_compared(recorded):
    """VeRA's gradients are of d and b."""
    _, runs = recorded
    vera = runs.rename(columns={"grad/A": "grad/d", "grad/B": "grad/b"})
    record, run = distill(vera), vera["run_id"].iloc[0]
    again = changed(vera[vera["run_id"] == run], "grad/b", 1.15, [0])
    assert compare("scratch", run, record, again, False).verdict == DIFFERENT


def test_runs_that_end_at_zero_are_compared(recorded):
    _, runs = recorded
    nothing = runs.assign(**{"summary.final_loss": 0.0})
    record, run = distill(nothing), nothing["run_id"].iloc[0]
    again = changed(nothing[nothing["run_id"] == run], "param/A", 1 + 1e-4, range(13))
    assert compare("scratch", run, record, again, False).verdict == CLOSE


def test_the_share_is_drawn_by_the_seed(recorded):
    _, runs = recorded
    record = distill(runs)
    assert drawn(record, 0.5, 1)["run_id"].tolist() == drawn(record, 0.5, 1)["run_id"].tolist()
    assert len(drawn(record, 0.5, 1)) == 3 and len(drawn(record, 1e-9, 1)) == 1 and len(drawn(record, 1.0, 1)) == 6
    assert len({tuple(drawn(record, 0.5, seed)["run_id"]) for seed in range(9)}) > 1


def test_there_must_be_records(tmp_path, capsys):
    assert main(["--outputs", str(tmp_path)]) == 2
    assert "holds no records" in capsys.readouterr().err
    for wrong in (["--share", "0"], ["--share", "x"], ["--seed", "-1"], ["variants.layers"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert "must be" in (err := capsys.readouterr().err) or "name that one" in err


@pytest.mark.parametrize(("column", "value"), [("init.name", "foo"), ("task.name", None), ("experiment", "dropped")])
def test_a_record_that_does_not_say_how_its_runs_were_configured(recorded, column, value):
    _, runs = recorded
    row = runs.iloc[0].drop(column) if value == "dropped" else runs.iloc[0].mask(runs.columns == column, value)
    with pytest.raises(ConfigError, match="does not say how it was configured"):
        config_of(row, configure())

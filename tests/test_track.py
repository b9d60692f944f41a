"""W&B for real, offline: one W&B run per run of a stack, with the store's configuration and columns."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from wandb.proto.wandb_internal_pb2 import Record

from runner.store.trackers.wandb import WandbTracker
from runner.sweeps.executors import base

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=3"]


def test_nothing_imports_wandb_unless_it_is_chosen():
    code = "import sys, runner.sweeps.execute, hydra_plugins.stack_sweeper; assert 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def records(file: Path) -> Iterator[Record]:
    """The records of an offline run's file, as `wandb sync` reads them: LevelDB's log format behind a 7-byte header.

    Blocks of 32 KiB; each chunk has a checksum (4 bytes), a length (2) and a type (1: whole, 2, 3, 4: first, middle, last).
    """
    contents, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(contents):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", contents, at)
        parts += contents[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""


def values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_offline_runs_hold_configuration_columns_and_summary(cli, outputs):
    code, out, err = cli("--multirun", "tracker=wandb", "init=gaussian_A,gaussian_B", *TINY)
    assert code == 0 and "2 finished" in out and err == ""
    files = sorted(outputs.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for file in files:
        found = list(records(file))
        [run] = [record.run for record in found if record.HasField("run")]
        name = run.run_id.removeprefix("scratch-")
        assert run.run_group == "scratch" and name in {path.name for path in outputs.glob("runs/scratch/*")}
        config = values(run.config.update)
        assert config["task"]["width"] == 16 and config["init"]["name"] in ("gaussian_A", "gaussian_B")
        history = [values(record.history.item) for record in found if record.HasField("history")]
        stored = pd.read_parquet(outputs / "runs" / "scratch" / name / "steps.parquet")
        assert [row["_step"] for row in history] == stored["step"].tolist()
        for row, (_, expected) in zip(history, stored.drop(columns="step").iterrows(), strict=True):
            measured = expected.dropna()  # nan is left out, not sent as a number
            assert {name: value for name, value in row.items() if not name.startswith("_")} == measured.to_dict()
        summary = {}
        for record in found:
            summary |= values(record.summary.update)
        assert summary["status"] == "finished" and summary["final_loss"] == history[-1]["train/loss"]


def test_a_trackers_trouble_costs_no_run(cli, monkeypatch):
    def refuse(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(WandbTracker, "finish", refuse)
    code, out, err = cli("tracker=wandb", *TINY)
    assert code == 0 and "1 finished" in out
    assert "not everything was reported (no network)" in err and "python -m runner.push" in err


def test_a_missing_wandb_is_told_before_training(cli, monkeypatch, outputs):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(base, "train", lambda *_: pytest.fail("trained"))
    code, _, err = cli("tracker=wandb", *TINY)
    assert code == 2 and "wandb is not installed" in err

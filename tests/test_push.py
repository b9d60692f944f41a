"""`python -m runner.push`: runs that were never tracked, reported later; and rows while runs train."""

import json
import os
import shutil
import time

import pandas as pd
import pytest
from conftest import configure
from stored import seal
from test_track import records, values

from runner.config.identity import run_id
from runner.push import main
from runner.store.outcome import FINISHED, Outcome
from runner.store.trackers.wandb import WandbTracker, describe
from runner.sweeps.executors import base

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=3"]


def histories(outputs) -> dict[str, list[dict]]:
    """Run id -> rows that W&B has of it."""
    found = {}
    for file in outputs.glob("wandb/offline-run-*/run-*.wandb"):
        parts, deadline = list(records(file)), time.monotonic() + 60
        while not any(part.HasField("exit") for part in parts) and time.monotonic() < deadline:
            time.sleep(0.05)  # W&B's own process writes the file, and may be late on a busy machine
            parts = list(records(file))
        [run] = [part.run for part in parts if part.HasField("run")]
        rows = [values(part.history.item) for part in parts if part.HasField("history")]
        found.setdefault(run.run_id.removeprefix("scratch-"), []).extend(rows)
    return found


def test_what_was_never_tracked_is_pushed_and_what_was_is_not(cli, outputs, capsys):
    cli("-m", *TINY, "seed=0,1")
    cli("-m", *TINY, "seed=2", "tracker=wandb")
    assert main(["scratch", "--outputs", str(outputs)]) == 0
    assert "2 runs reported, 1 were before" in capsys.readouterr().out
    found = histories(outputs)
    assert found.keys() == {path.name for path in outputs.glob("runs/scratch/*")}
    for name, rows in found.items():
        stored = pd.read_parquet(outputs / "runs" / "scratch" / name / "steps.parquet")
        assert [row["train/loss"] for row in rows] == stored["train/loss"].tolist()
    assert main(["scratch", "--outputs", str(outputs)]) == 0
    assert "0 runs reported, 3 were before" in capsys.readouterr().out


def test_a_damaged_run_is_skipped_and_a_missing_folder_refused(cli, outputs, capsys):
    cli("-m", *TINY, "seed=0,1")
    steps = next(outputs.glob("runs/scratch/*/steps.parquet"))
    steps.write_bytes(steps.read_bytes() + b" ")
    assert main(["scratch", "--outputs", str(outputs)]) == 1
    out, err = capsys.readouterr()
    assert "1 runs reported" in out and "steps.parquet differs from its checksum" in err
    for name in ("nothing", "", "..", "../runs/scratch"):
        assert main([name, "--outputs", str(outputs)]) == 2
        assert "is not there" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["--project=a/b", "--project=", "--entity=a b"])
def test_what_w_and_b_takes_for_no_name_is_refused_as_in_a_sweep(cli, outputs, capsys, bad):
    cli(*TINY)
    assert main(["scratch", "--outputs", str(outputs), bad]) == 2
    assert capsys.readouterr().err.startswith(f"error: {bad.removesuffix('=')}") and not (outputs / "wandb").exists()


def test_no_report_says_why(cli, outputs, capsys):
    cli("-m", *TINY, "seed=0,1")
    for meta in outputs.glob("runs/scratch/*/meta.json"):
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"status": "interrupted"}))
    assert main(["scratch", "--outputs", str(outputs)]) == 0
    assert capsys.readouterr().out == "0 runs reported, 2 have no result yet\n"
    (outputs / "runs" / "empty").mkdir()
    assert main(["empty", "--outputs", str(outputs)]) == 0
    assert capsys.readouterr().out == f"0 runs reported: {outputs / 'runs' / 'empty'} holds none\n"


@pytest.mark.parametrize("damage", ["pipe", "folder", "list", "aliases", "another width"])
def test_a_run_that_holds_something_else_is_named(cli, outputs, capsys, damage):
    cli(*TINY)
    [config] = outputs.glob("runs/scratch/*/config.yaml")
    text = config.read_text()
    if damage in ("pipe", "folder"):
        config.unlink()
        os.mkfifo(config) if damage == "pipe" else config.mkdir()
    else:
        forged = {
            "list": "- 1\n",
            "aliases": f"{text}a: &a [1]\nb: *a\n",
            "another width": text.replace("width: 16", "width: x"),
        }
        config.write_text(forged[damage])
        seal(config.parent)
    assert main(["scratch", "--outputs", str(outputs)]) == 1
    out, err = capsys.readouterr()
    assert (
        out == "0 runs reported, 1 were left out\n"
        and err.startswith(f"left out {config.parent}: ")
        and err.count("\n") == 1
    )


def test_names_are_for_people():
    """And those that differ in a swept field have two names, as rank and alpha are."""
    fields = ["adapter=dora", "init=pissa", "optimizer.lr=3e-3", "task.width=64", "adapter.rank=2", "adapter.alpha=16"]
    assert describe(configure(*fields, "seed=4")) == ["dora", "pissa", "lr=0.003", "n=64", "r=2", "alpha=16", "seed=4"]
    assert "r=4" in describe(configure("adapter=vera", "init=vera_b0", "adapter.rank=4"))


def test_runs_of_a_stack_are_alive_together_and_get_each_row_once(outputs):
    """Rows while they train, interleaved, then all of them at the end: each is in W&B once, under its step."""
    configs = [configure(*TINY, "tracker=wandb", f"seed={seed}", f"outputs={outputs}") for seed in range(2)]
    steps = pd.DataFrame({"step": range(5), "train/loss": [0.5, 0.4, 0.3, 0.2, 0.1]})
    outputs.mkdir()
    tracker = WandbTracker(configs[0])
    for rows in (steps[:2], steps[2:3]):
        for config in configs:
            tracker.log(config, rows)
    assert len(tracker.open) == 2
    for config in configs:
        tracker.finish(config, Outcome(FINISHED, steps, {"final_loss": 0.1}))
    said = tracker.close()
    assert "2 runs" in said and f"wandb sync {outputs}/wandb/offline-run-*" in said
    for config in configs:
        assert [row["_step"] for row in histories(outputs)[run_id(config)]] == list(range(5))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rows_reach_the_tracker_while_runs_train(cli, outputs, monkeypatch, workers):
    """With `STREAM_EVERY` at 0 a row arrives at every step but the last; workers send theirs by the pipe."""
    arrived = []
    log = WandbTracker.log
    monkeypatch.setattr(
        WandbTracker, "log", lambda self, config, rows: (arrived.append(len(rows)), log(self, config, rows))
    )
    monkeypatch.setattr(base, "STREAM_EVERY", 0.0 if workers == "1" else 0.2)
    steps = "steps=6" if workers == "1" else "steps=5000"
    code, out, err = cli("-m", *TINY[:3], steps, "seed=0,1", "tracker=wandb", f"workers={workers}", "log.every=1")
    assert code == 0, err
    assert len(arrived) > 2 and "wandb sync" in out
    shutil.rmtree(outputs / "wandb")


def test_a_run_that_was_cut_off_is_reported_whole_later(cli, outputs, capsys):
    """Rows of an attempt that ended early are no report; what it left is replaced, so that nothing is sent twice."""
    config = configure(*TINY, "tracker=wandb", f"outputs={outputs}")
    outputs.mkdir()
    tracker = WandbTracker(config)
    tracker.log(config, pd.DataFrame({"step": [0], "train/loss": [0.5]}))
    tracker.close()
    assert len(list(outputs.glob("wandb/offline-run-*"))) == 1
    cli(*TINY)
    assert main(["scratch", "--outputs", str(outputs)]) == 0
    assert "1 runs reported" in capsys.readouterr().out
    assert len(list(outputs.glob("wandb/offline-run-*"))) == 1
    assert [row["_step"] for row in histories(outputs)[run_id(config)]] == [0, 1, 2, 3]


def test_what_w_and_b_refuses_is_tried_once_while_it_trains_and_once_at_its_end(outputs, monkeypatch):
    config, attempts = configure(*TINY, "tracker=wandb", f"outputs={outputs}"), []

    def refuse(self, *_):
        attempts.append(1)
        raise ConnectionError("no network")

    monkeypatch.setattr(WandbTracker, "_start", refuse)
    tracker, steps = WandbTracker(config), pd.DataFrame({"step": [0], "train/loss": [0.5]})
    with pytest.raises(ConnectionError):
        tracker.log(config, steps)
    tracker.log(config, steps)
    assert len(attempts) == 1
    with pytest.raises(ConnectionError):
        tracker.finish(config, Outcome(FINISHED, steps, {"final_loss": 0.1}))
    assert len(attempts) == 2

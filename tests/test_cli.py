"""`python -m runner` as a user meets it: sweeps, skipping, damage, failures, interruption, help for what comes next."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time

import pandas as pd
import processes
import pytest
from conftest import messages

from runner.sweeps.executors import base

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=2"]


def statuses(outputs) -> dict[str, int]:
    """Of runs that are in place: one that is being written has a hidden name."""
    metas = [json.loads(path.read_text()) for path in outputs.glob("runs/*/[!.]*/meta.json")]
    return pd.Series([meta["status"] for meta in metas], dtype=object).value_counts().to_dict()


def test_one_run(cli, outputs):
    code, out, err = cli("init=gaussian_A", *TINY)
    assert code == 0 and "1 runs: 1 finished" in out and messages(err) == ""
    assert "files: " in out and "next:  python -m analysis feature_norms gradient_norms" in out
    assert statuses(outputs) == {"finished": 1}


def test_a_sweep_is_trained_in_stacks_once(cli, outputs):
    sweep_of_four = ["--multirun", "init=gaussian_A,gaussian_B", "optimizer.lr=1e-3,1e-2", *TINY]
    assert "4 runs: 4 finished" in cli(*sweep_of_four)[1]
    metas = {path: path.read_text() for path in outputs.glob("runs/*/*/meta.json")}
    assert all(json.loads(text)["stack_size"] == 4 for text in metas.values())
    code, out, _ = cli(*sweep_of_four)
    assert code == 0 and "4 runs: 4 skipped" in out and "gaussian_A" in out  # the table covers what was skipped
    assert all(path.read_text() == text for path, text in metas.items())
    assert (
        "6 runs: 2 finished, 4 skipped"
        in cli("--multirun", "init=gaussian_A,gaussian_B", "optimizer.lr=1e-3,1e-2,1e-1", *TINY)[1]
    )


def test_a_damaged_run_is_named_and_trained_again(cli, outputs):
    cli(*TINY)
    [meta] = outputs.glob("runs/*/*/meta.json")
    before = (meta.parent / "steps.parquet").read_bytes()
    (meta.parent / "steps.parquet").write_bytes(b"")
    code, out, err = cli(*TINY)
    assert code == 0 and meta.parent.name in err and "1 finished" in out
    assert (meta.parent / "steps.parquet").read_bytes() == before


def test_a_diverged_run_is_a_result(cli, outputs):
    code, out, _ = cli(*TINY, "optimizer.lr=1e6")
    assert code == 0 and "1 diverged" in out and statuses(outputs) == {"diverged": 1}
    assert "1 skipped" in cli(*TINY, "optimizer.lr=1e6")[1]


def test_a_failing_stack_costs_only_itself(cli, outputs, monkeypatch):
    train = base.train

    def breaks_at_width_8(configs, progress, ahead):
        if configs[0].task.width == 8:
            raise RuntimeError("no memory for that")
        return train(configs, progress)

    monkeypatch.setattr(base, "train", breaks_at_width_8)
    arguments = ["--multirun", *TINY, "task.width=8,16"]
    code, out, err = cli(*arguments)
    assert (
        code == 1
        and "1 finished, 1 failed" in out
        and "RuntimeError: no memory for that" in out
        and "Traceback" not in err
    )
    assert statuses(outputs) == {"finished": 1, "failed": 1}
    monkeypatch.setattr(base, "train", train)
    assert "2 runs: 1 finished, 1 skipped" in cli(*arguments)[1]


def test_the_best_lr_is_told_and_its_edge_flagged(cli):
    _, out, _ = cli("--multirun", *TINY, "optimizer.lr=1e-6,1e-5,1e6")
    [row] = [line for line in out.splitlines() if "gaussian_A" in line]
    assert "1e-05" in row and "edge" not in row  # 1e6 diverges, but it is in the grid
    _, out, _ = cli("--multirun", *TINY, "optimizer.lr=1e-6,1e-5")
    assert "edge of the grid" in out


@pytest.mark.parametrize(
    ("more", "key"),
    [([], "initial_loss"), (["task=language_model", "task.width=32", "task.pretrain_steps=0"], "initial_eval_loss")],
)
def test_the_loss_at_start_is_that_of_the_summary(more, key, cli, outputs, tmp_path):
    """Of the objective: held-out where the task holds data out."""
    sizes = ["steps=3", "task.sequence_length=16", f"bases={tmp_path}"] if more else TINY
    _, out, _ = cli(*more, *sizes)
    [summary] = outputs.glob("runs/scratch/*/summary.json")
    columns, row = [line for line in out.splitlines() if line.lstrip().startswith(("task", "teacher", "language"))]
    assert columns.split()[-3:] == ["start", "seeds", "lrs"]
    assert float(row.split()[-3]) == pytest.approx(json.loads(summary.read_text())[key], rel=5e-3)


@pytest.mark.parametrize("axis", ["seed=range(0,0)", "init=glob(nothing*)", "steps=interval(1,2)"])
def test_an_axis_without_values_is_told(cli, axis):
    code, _, err = cli("--multirun", "seed=0,1", axis)
    assert code == 2 and err.startswith(f"error: {axis}: ") and "values" in err


@pytest.mark.parametrize("override", ["optimizer.lr=1e-3,", "init=~x", "seed=a=b"])
def test_what_hydra_cannot_read_is_told_with_what_to_do(cli, override):
    code, _, err = cli("--multirun", override)
    assert code == 2 and err.startswith(f"error: {override}: ") and "quotes" in err and err.count("\n") == 1


def test_the_report_has_a_row_an_adapter(cli):
    _, out, _ = cli(
        "-m", "adapter=lora,dora", "optimizer.lr=0.01,0.02", "task.width=8", "task.train_points=4", "steps=2"
    )
    rows = [line.split()[1:3] for line in out.splitlines() if line.strip().startswith("teacher_student")]
    assert rows == [["dora", "gaussian_A"], ["lora", "gaussian_A"]]


def test_a_report_that_cannot_be_printed_costs_no_run(tmp_path):
    command = [sys.executable, "-m", "runner", *TINY, f"outputs={tmp_path}"]
    with open("/dev/full", "w") as full:
        done = processes.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and messages(done.stderr) == (
        "error: cannot print the report (No space left on device); the runs are stored\n"
    )
    assert statuses(tmp_path) == {"finished": 1}


def test_a_sweep_has_one_store_and_one_tracker(cli):
    code, _, err = cli("--multirun", *TINY, "tracker=none,wandb")
    assert code == 2 and "tracker: must be the same for all runs of a sweep" in err


def test_several_experiments_are_one_sweep(cli, outputs):
    """Each with its own axes, in the order in which they are named; the report tells them apart."""
    code, out, err = cli("experiment=lr_vs_width,first_step", *TINY, "seed=0", "optimizer.lr=1e-3,1e-2")
    assert code == 0 and "10 finished" in out, (out, err)
    counts = {name: len(list(outputs.glob(f"runs/{name}/*/meta.json"))) for name in ("lr_vs_width", "first_step")}
    assert counts == {"lr_vs_width": 4, "first_step": 6}
    assert f"files: {outputs}/runs/lr_vs_width, {outputs}/runs/first_step" in out


def test_a_run_directory_under_another_runs_name_is_damaged(cli, outputs):
    cli("--multirun", *TINY, "seed=0,1")
    first, second = sorted(outputs.glob("runs/scratch/*"))
    shutil.rmtree(first)
    shutil.copytree(second, first)
    _, out, err = cli("--multirun", *TINY, "seed=0,1")
    assert "1 finished, 1 skipped" in out and f"holds run {second.name}" in err


def test_interruption_during_startup_is_no_traceback(outputs):
    command = [sys.executable, "-m", "runner", f"outputs={outputs}", "--multirun", *TINY, "seed=range(0,500)"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(0.8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in err  # a shell shows 130 for both


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interruption_keeps_what_is_finished_and_marks_the_rest(cli, outputs, sent):
    sweep = ["--multirun", *TINY[:3], "steps=500", "seed=0,1,2,3,4,5"]
    command = [sys.executable, "-m", "runner", *sweep, f"outputs={outputs}"]
    process = processes.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    while not statuses(outputs) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and messages(err) == ""
    counts = statuses(outputs)
    assert counts["finished"] >= 1 and counts["interrupted"] >= 1 and sum(counts.values()) == 6
    assert "the same command trains what is left" in out
    assert f"{counts['interrupted']} finished, {counts['finished']} skipped" in cli(*sweep, "workers=1")[1]
    assert statuses(outputs) == {"finished": 6}


def test_progress_is_quiet_when_not_a_terminal(cli):
    assert cli(*TINY, "steps=50")[2] == ""


def test_progress_on_a_terminal(tmp_path):
    """Under a pseudo-terminal the bar shows runs done, loss and time left."""
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    sweep = ["--multirun", f"outputs={tmp_path}", *TINY[:3], "steps=2500", "seed=0,1", "workers=1"]
    with processes.Popen(
        [sys.executable, "-m", "runner", *sweep], stdout=subprocess.DEVNULL, stderr=terminal
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(controller, 4096):
                shown += chunk
        except OSError:  # Linux: the other end is closed
            pass
    assert process.returncode == 0
    assert b"1/2 runs, loss" in shown and b"left]" in shown

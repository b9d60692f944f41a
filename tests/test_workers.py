"""Processes that train side by side: the records of one, and what it costs when one dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from sweeps import RUNS, SWEEP, same_store

from runner.sweeps.executors import base, local
from runner.training.train import train


def test_processes_give_the_records_of_one(undisturbed, cli, outputs):
    code, out, err = cli(*SWEEP, "workers=2")
    assert code == 0 and f"{RUNS} finished" in out and err == ""
    same_store(outputs, undisturbed)


def test_a_killed_worker_costs_its_stack_a_second_try(undisturbed, cli, outputs, monkeypatch):
    """The process that got the first stack is killed; its runs are trained once more, each alone."""
    submit, killed = local.Processes.submit, []

    def kill_the_first(self, stack, ahead):
        submit(self, stack, ahead)
        if not killed:
            killed.extend(stack)
            os.kill(self.workers[-1].process.pid, signal.SIGKILL)

    monkeypatch.setattr(local.Processes, "submit", kill_the_first)
    code, out, _ = cli(*SWEEP, "workers=2")
    assert code == 0 and f"{RUNS} finished" in out
    sizes = [json.loads(meta.read_text())["stack_size"] for meta in outputs.glob("runs/*/*/meta.json")]
    assert sizes.count(1) == len(killed) == 6
    same_store(outputs, undisturbed)


def test_a_run_that_kills_its_worker_twice_has_failed(cli, outputs, monkeypatch):
    """As one does that needs more memory than there is. Its neighbours are trained."""
    submit, fatal, attempts = local.Processes.submit, 1e-2, []

    def kill(self, stack, ahead):
        submit(self, stack, ahead)
        if any(config.optimizer.lr == fatal for config in stack):
            attempts.append(len(stack))
            os.kill(next(w for w in self.workers if w.stack is stack).process.pid, signal.SIGKILL)

    monkeypatch.setattr(local.Processes, "submit", kill)
    arguments = ["--multirun", *SWEEP[1:5], "optimizer.lr=1e-3,1e-2,1e-1"]
    code, out, err = cli(*arguments, "workers=2")
    assert code == 1 and "2 finished, 1 failed" in out and "killed by SIGKILL" in out and "Traceback" not in err
    assert attempts == [3, 1]
    monkeypatch.undo()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_orphaned_worker_stops(tmp_path):
    """Its parent's claims are gone, so it must not go on."""
    arguments = ["task.width=2048", "steps=100000", "seed=0,1", "task.train_points=200"]
    command = [sys.executable, "-m", "runner", "--multirun", *arguments, f"outputs={tmp_path}", "workers=2"]
    with processes.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        deadline = time.monotonic() + 60
        while len(pids := [p for p in children.read_text().split() if "spawn_main" in cmdline(p)]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)  # into training
        parent.kill()
    while any(Path(f"/proc/{pid}").exists() and "spawn_main" in cmdline(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def cmdline(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_failure_is_tried_once_more_alone(cli, outputs, monkeypatch):
    """A stack too large for the memory fails; its runs, one at a time, do not."""
    sizes = []

    def no_memory_for_two(configs, progress, ahead):
        sizes.append(len(configs))
        if len(configs) > 1:
            raise MemoryError("no room")
        return train(configs, progress)

    monkeypatch.setattr(base, "train", no_memory_for_two)
    code, out, _ = cli(*SWEEP[:5], "optimizer.lr=1e-3,1e-2", "workers=1")
    assert code == 0 and "2 finished" in out and sizes == [2, 1, 1]

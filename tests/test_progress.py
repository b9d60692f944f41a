"""What is said on stderr while runs train: lines in a log, a bar in a terminal."""

import os
import re
import subprocess
import sys

import processes
import pytest
from conftest import configure

from runner.core import messages
from runner.sweeps import progress as module
from runner.sweeps.progress import Progress

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def stack():
    return [configure(*TINY, "steps=100", f"seed={seed}") for seed in range(2)]


def lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if re.match(r" *\d+%, ", line)]


def test_a_log_has_a_line_at_the_start_and_at_each_tenth(clock, stack, capsys):
    with Progress([stack], lambda config: 1.0) as progress:
        for step in range(100):
            clock[0] += 3.0
            progress.step(stack, step, 0.5)
        progress.finish(stack, stack)
    said = lines(capsys.readouterr().err)
    assert re.fullmatch(r"  0%, 2 runs to train, in a stack of about \d+ MiB", said[0])
    assert [line.split("%")[0].strip() for line in said[1:]] == [str(tenth) for tenth in range(10, 100, 10)] + ["100"]
    assert "0/2 runs, loss 0.5 [00:33 elapsed, about 04:57 left]" in said[1]


def test_a_log_is_never_silent_for_more_than_a_minute(clock, stack, capsys):
    with Progress([stack], lambda config: 1.0) as progress:
        for _ in range(600):
            clock[0] += 1.0
            progress.waits("pretraining llama_tiny")
    said = lines(capsys.readouterr().err)
    assert 9 <= len(said) - 1 <= 10 and all("pretraining llama_tiny" in line for line in said[1:])


def test_a_short_sweep_fills_no_log(clock, stack, capsys):
    with Progress([stack], lambda config: 1.0) as progress:
        for step in range(100):
            clock[0] += 0.005
            progress.step(stack, step, 0.5)
    assert len(lines(capsys.readouterr().err)) == 1


def test_listeners_hear_what_training_waits_for_and_only_while_they_listen():
    heard = []
    with messages.listening(heard.append):
        messages.announce("compiling kernels")
    messages.announce("loading a model")
    assert heard == ["compiling kernels"]


def test_kernels_that_are_compiled_are_announced(tmp_path):
    """By workers, over their pipes; a fresh cache makes them compile."""
    script = (
        "import runner.sweeps.progress as p; seen = []; p.Progress.waits = lambda self, name: seen.append(name)\n"
        "import sys; from runner.sweeps.cli import main\n"
        "if __name__ == '__main__':\n    main(); assert any('compiling kernels' in name for name in seen), seen"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py"), "-m", *TINY, "steps=3", "seed=0,1"]
    processes.run([*command, "workers=2", f"outputs={tmp_path}"], check=True, capture_output=True)


def test_a_log_that_nobody_reads_costs_no_run(tmp_path):
    """The reader of stderr is gone, or its disk is full: training goes on."""
    command = [sys.executable, "-m", "runner", "-m", *TINY, "steps=3", "seed=0,1", f"outputs={tmp_path}"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, env=buffered)
    assert done.returncode == 0 and "2 finished" in done.stdout

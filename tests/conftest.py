"""What the tests share: configurations as Hydra composes them, the command line in-process, and negative controls."""

import os

# Tests run side by side, one a core: threads of theirs and of the programs they start would only wait for each other.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from sweeps import RUNS, SWEEP

from runner.config import Config
from runner.config.compose import CONF, from_hydra, register
from runner.sweeps.cli import main
from runner.tasks.models import bases

register()
bases.THREADS = 1  # for the same reason


def configure(*overrides: str) -> Config:
    """The checked configuration that these overrides give on the command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)))


def messages(err: str) -> str:
    """What a command said on stderr besides its progress, which depends on time."""
    return "".join(line for line in err.splitlines(True) if not re.match(r" *\d+%, ", line))


def rejects(check: Callable[..., object], *arguments: object) -> None:
    """A check's negative control: on input that breaks the property, it must fail."""
    with pytest.raises(AssertionError):
        check(*arguments)


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """`cli("init=gaussian_A", …)` -> (exit code, stdout, stderr) of `python -m runner`, with outputs under tmp_path."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["runner", *arguments, f"outputs={tmp_path / 'outputs'}"])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, messages(captured.err)

    return run


@pytest.fixture
def outputs(tmp_path) -> Path:
    """The root folder that `cli` uses."""
    return tmp_path / "outputs"


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Nobody is asked for anything, not even whether there is a network."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was made"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The root folder of `SWEEP` as it ends when nothing happens to it."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "runner", *SWEEP, f"outputs={outputs}"]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(outputs.glob("runs/scratch/*/meta.json"))) == RUNS
    return outputs


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> dict[str, list[str]]:
    """What configures a run on a small Llama and on a small RoBERTa."""
    from folders import MODELS  # it imports torch and peft, which few tests need
    from models import overrides

    folders = {kind: tmp_path_factory.mktemp(kind) for kind in MODELS}
    return {kind: overrides(folders[kind], task, kind, adapter="vera") for kind, task in MODELS.items()}


@pytest.fixture
def folder(shared, tmp_path) -> Path:
    """An exported LoRA of rank 4 on two layers of each block."""
    from folders import configured, stored

    from runner.export import main as export

    config = configured(shared, "llama", "lora", "task.targets=[q_proj,v_proj]")
    run, *_ = stored(config, tmp_path)
    assert export([str(run), str(tmp_path / "out")]) == 0
    return tmp_path / "out"

"""What the tests share: configurations as Hydra composes them, the command line in-process, and negative controls."""

import os

# Tests run side by side, one a core: threads of theirs and of the programs they start would only wait for each other.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import contextlib
import gc
import io
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import compositions
import pytest
from hydra import compose, initialize_config_dir
from sweeps import RUNS, SWEEP

from runner.config import Config
from runner.config.compose import CONF, from_hydra, register
from runner.store.runs import Store
from runner.sweeps.cli import main
from runner.tasks.models import pretraining

register()
compositions.keep()
pretraining.THREADS = 1  # for the same reason
gc.set_threshold(50_000, 20, 20)  # what the libraries hold is walked a tenth as often: it took a tenth of the time


def pytest_collection_finish() -> None:
    """And what is held now, not at all: libraries and tests, which stay."""
    gc.freeze()


def configure(*overrides: str) -> Config:
    """The checked configuration that these overrides give on the command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)))


def command(*arguments: str) -> None:
    """`python -m runner`, in this process, for what it leaves in its store."""
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        patch.setattr(sys, "argv", ["runner", *arguments])
        main()


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


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    """An empty one."""
    with Store(str(tmp_path)) as store:
        yield store


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Files of figures are made, and nothing is drawn in them: what figures show is tested elsewhere."""
    from matplotlib.figure import Figure  # it takes a while, and few tests need it

    monkeypatch.setattr(Figure, "savefig", lambda self, place, **_: Path(place).touch())


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The root folder of `SWEEP` as it ends when nothing happens to it."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    command(*SWEEP, f"outputs={outputs}")
    assert len(list(outputs.glob("runs/scratch/*/meta.json"))) == RUNS
    return outputs


@pytest.fixture
def nothing_compiled() -> None:
    """What this process has compiled before is no matter to a test."""
    from runner.training.compiled import choice  # it imports torch's compiler, which few tests need

    choice.forget()


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

"""What the tests share: configurations as Hydra composes them, the command line in-process, and negative controls."""

import os

# Tests run side by side, one a core: threads of theirs and of the programs they start would only wait for each other.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import contextlib
import copy
import dataclasses
import gc
import io
import re
import socket
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig
from sweeps import RUNS, SWEEP

from runner.config import Config
from runner.config.compose import CONF, from_hydra, register
from runner.config.registry import GROUPS
from runner.store.runs import Store
from runner.sweeps.cli import main
from runner.tasks.models import pretraining

register()
pretraining.THREADS = 1  # for the same reason
gc.set_threshold(50_000, 20, 20)  # what the libraries hold is walked a tenth as often: it took a tenth of the time

FILES = {*GROUPS, "experiment"}  # what chooses one


def pytest_collection_finish() -> None:
    """And what is held now, not at all: libraries and tests, which stay."""
    gc.freeze()


def configure(*overrides: str) -> Config:
    """The checked configuration that these overrides give on the command line.

    Composing takes Hydra most of a tenth of a second, for the files that are chosen. So it is done once for each choice of
    them, and values are set in a copy of that, as Hydra sets them: see `test_config`.
    """
    parsed = [_parsed(text) for text in overrides]
    if not all(map(_is_a_choice_or_a_value, parsed)):
        return composed(*overrides)
    choices = tuple(each.input_line for each in parsed if each.key_or_group in FILES)
    known = tuple(kind for parts in GROUPS.values() for kind in parts.options.values())
    config = copy.deepcopy(_chosen(choices, known))
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o.key_or_group not in FILES], config)
    return from_hydra(config)


def composed(*overrides: str) -> Config:
    """The same, all of it by Hydra."""
    return from_hydra(_by_hydra(overrides))


def _by_hydra(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@cache
def _chosen(choices: tuple[str, ...], known: tuple[type, ...]) -> DictConfig:
    """What is composed of these choices, while these parts are registered."""
    return _by_hydra(choices)


@cache
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _is_a_choice_or_a_value(override: Override) -> bool:
    """Of a file, or of a field of a run or a part; none of Hydra's own or with a sign in front."""
    key = override.key_or_group
    plain = override.type is OverrideType.CHANGE and override.package is None and not override.is_sweep_override()
    field = key.partition(".")[0] in {f.name for f in dataclasses.fields(Config)}
    return plain and field and (key not in FILES or isinstance(override.value(), str))


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

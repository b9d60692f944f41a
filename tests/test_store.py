"""The store: complete directories or none, nothing trusted that was damaged, nothing trained twice."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import processes
import pytest
from conftest import configure

from runner.config import ConfigError
from runner.config.identity import run_id
from runner.store.outcome import DamagedRun, Outcome
from runner.store.runs import Store
from runner.sweeps.plan import plan


@pytest.fixture
def config():
    return configure("steps=1")


OUTCOME = Outcome("finished", pd.DataFrame({"step": [0, 1], "train/loss": [1.0, 0.5]}), {"final_loss": 0.5})


def test_a_written_run_is_complete_and_done(store, config):
    path = store.write(config, OUTCOME, {"device": "cpu"})
    assert path == store.runs / "scratch" / run_id(config)
    assert sorted(f.name for f in path.iterdir()) == ["config.yaml", "meta.json", "steps.parquet", "summary.json"]
    meta = json.loads((path / "meta.json").read_text())
    assert meta["status"] == "finished" and meta["run_id"] == path.name and meta["device"] == "cpu"
    assert {"versions", "git", "error", "sha256"} <= meta.keys()
    assert store.summary(config) == {"status": "finished", "final_loss": 0.5}
    assert not [f for f in path.parent.iterdir() if f.name.startswith(".")]


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_without_a_result_is_not_done(store, config, status):
    store.write(config, Outcome(status, error="because"), {})
    assert store.summary(config) is None
    store.write(config, OUTCOME, {})  # and is replaced by its result
    assert store.summary(config)["status"] == "finished"


def test_a_full_disk_is_told_and_costs_nothing(store, config, monkeypatch):
    store.write(config, Outcome("failed", error="before"), {})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in ((Path, "mkdir"), (Path, "write_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(*step, full)
            with pytest.raises(ConfigError, match="No space left on device"):
                store.write(config, OUTCOME, {})
        meta = json.loads((store.path(config) / "meta.json").read_text())
        assert meta["error"] == "before" and len(list(store.path(config).parent.iterdir())) == 1
    store.write(config, OUTCOME, {})
    assert store.summary(config)


class PowerCut(BaseException):
    """Not an error that anybody could handle."""


OPERATIONS = ((Path, "mkdir"), (Path, "write_bytes"), (Path, "rename"), (shutil, "rmtree"))


def cut(monkeypatch, after: int, lose: bool) -> Callable[[], int]:
    """End the process, as it were, after so many file operations; with `lose`, written files lose their contents.

    Returns how many operations there were.
    """
    count = 0

    def patched(operation):
        def run(*arguments, **options):
            nonlocal count
            if count == after:
                raise PowerCut
            count += 1
            if lose and operation is write_bytes:
                return operation(arguments[0], b"")
            return operation(*arguments, **options)

        return run

    write_bytes = Path.write_bytes
    for owner, name in OPERATIONS:
        monkeypatch.setattr(owner, name, patched(getattr(owner, name)))
    return lambda: count


@pytest.mark.parametrize("lose", [False, True])
@pytest.mark.parametrize("before", ["nothing", "failed", "damaged"])
def test_a_power_cut_between_any_two_operations_costs_one_run(tmp_path, config, monkeypatch, before, lose):
    after, finished = 0, False
    while not finished:
        with Store(str(tmp_path / f"{after}")) as store:
            if before != "nothing":
                path = store.write(config, Outcome("failed", error="because") if before == "failed" else OUTCOME, {})
            if before == "damaged":
                (path / "summary.json").write_text("{")
            with monkeypatch.context() as patch:
                count = cut(patch, after, lose)
                try:
                    store.write(config, OUTCOME, {})
                    finished = True
                except PowerCut:
                    pass
            operations = count()
            planned = plan([config], store)
            if finished and not lose:
                assert planned.done
            elif planned.done:  # only after everything was in place
                assert not lose and operations >= 6
            else:
                assert planned.stacks == [[config]]
                store.write(config, OUTCOME, {})
            assert store.summary(config) == {"status": "finished", "final_loss": 0.5}
            assert [f.name for f in store.path(config).parent.iterdir()] == [run_id(config)]  # no leftovers
        after += 1
    assert after >= 7  # rmtree, mkdir, four files, rename, …: the cuts did cut


def test_a_claim_excludes_other_processes_and_ends_with_its_own(store, config):
    """Claims are the system's locks: another process cannot have them, and loses its own however it ends."""
    other = configure("steps=2")
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import configure
from runner.store.runs import Store
store = Store({str(store.runs.parent)!r})
print(store.claim(configure("steps=1")), store.claim(configure("steps=2")), flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert store.claim(config)
    process = processes.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "False True\n"
        assert store.claim(config) and not store.claim(other)
        process.communicate("die\n")
    assert store.claim(other)


def truncate(path):
    file = path / "steps.parquet"
    file.write_bytes(file.read_bytes()[:-10])


def flip_a_bit(path):
    file = path / "steps.parquet"
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


DAMAGE = {
    "missing file": lambda path: (path / "summary.json").unlink(),
    "no meta": lambda path: (path / "meta.json").unlink(),
    "meta is not JSON": lambda path: (path / "meta.json").write_text("{"),
    "meta is another JSON": lambda path: (path / "meta.json").write_text("[]"),
    "a pipe": lambda path: ((path / "meta.json").unlink(), os.mkfifo(path / "meta.json")),
    "a folder": lambda path: ((path / "summary.json").unlink(), (path / "summary.json").mkdir()),
    "truncated": truncate,
    "one bit": flip_a_bit,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_named(store, config, damage):
    path = store.write(config, OUTCOME, {})
    DAMAGE[damage](path)
    with pytest.raises(DamagedRun, match=path.name):
        store.summary(config)
    planned = plan([config], store)
    assert path.name in planned.damaged[0] and planned.stacks == [[config]] and not planned.done


def test_plan_drops_duplicates_and_what_is_done(store):
    configs = [configure("steps=1", f"optimizer.lr={lr}") for lr in (0.1, 0.2, 0.1)]
    store.write(configs[0], OUTCOME, {})
    planned = plan(configs, store)
    assert [config for config, _ in planned.done] == [configs[2]]
    assert planned.stacks == [[configs[1]]]

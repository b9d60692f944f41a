"""The store: complete directories or none, nothing trusted that was damaged, nothing trained twice."""

import errno
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import configure

from runner.config import run_id
from runner.plan import plan, stack_key
from runner.schema import ConfigError
from runner.store import DamagedRun, Outcome, Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


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

    for step in ((pd.DataFrame, "to_parquet"), (Path, "write_text")):
        with monkeypatch.context() as patch:
            patch.setattr(*step, full)
            with pytest.raises(ConfigError, match="No space left on device"):
                store.write(config, OUTCOME, {})
        meta = json.loads((store.path(config) / "meta.json").read_text())
        assert meta["error"] == "before" and len(list(store.path(config).parent.iterdir())) == 1
    store.write(config, OUTCOME, {})
    assert store.summary(config)


def test_another_process_that_was_first_is_no_error(store, config, monkeypatch):
    """In the moment before our directory is renamed into place, somebody else puts the same run there."""
    place = store.write(config, OUTCOME, {"device": "theirs"})
    theirs = shutil.copytree(place, store.runs / "theirs")
    rename = Path.rename

    def late(source, target):
        if target == place:
            shutil.copytree(theirs, place)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", late)
    store.write(config, OUTCOME, {"device": "ours"})
    assert json.loads((place / "meta.json").read_text())["device"] == "theirs"
    assert store.summary(config) and list(place.parent.iterdir()) == [place]


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


SHARED = ["init=gaussian_B", "init.scale=2", "optimizer.lr=0.1", "optimizer.lr_ratio=2", "optimizer.schedule=linear",
          "optimizer.warmup=3", "optimizer.beta1=0.5", "adapter.alpha=1", "stability.max_ratio=7"]  # fmt: skip
NOT_SHARED = ["seed=1", "task.width=64", "task=linear", "optimizer=sgd", "adapter.rank=2", "steps=7", "log.every=2",
              "eval.every=3", "dtype=float64", "probe.size=3"]  # fmt: skip


def test_what_may_share_a_stack():
    for override in SHARED:
        assert stack_key(configure(override)) == stack_key(configure()), override
    for override in NOT_SHARED:
        assert stack_key(configure(override)) != stack_key(configure()), override


def test_stacks_keep_within_the_memory_budget(store):
    per_run = 1000 * 128 * 4
    configs = [
        configure(f"optimizer.lr={lr}", f"stack.max_bytes={3 * per_run + 1}") for lr in (0.1, 0.2, 0.3, 0.4, 0.5)
    ]
    assert [len(stack) for stack in plan(configs, store).stacks] == [2, 3]
    tiny = [configure(f"optimizer.lr={lr}", "stack.max_bytes=1") for lr in (0.1, 0.2)]
    assert [len(stack) for stack in plan(tiny, store).stacks] == [1, 1]

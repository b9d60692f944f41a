"""Where stacks are trained, as far as that takes no cluster; `tests/clusters` has real ones."""

import builtins
import os
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import configure, rejects
from sweeps import RUNS, SWEEP, same_store

from runner.config import ConfigError
from runner.config.identity import as_kept, run_id
from runner.config.registry import TASKS
from runner.config.resources import check_tf32, device_of
from runner.store.runs import Store
from runner.sweeps import plan
from runner.sweeps.executors import base, local
from runner.sweeps.executors.job import Job
from runner.sweeps.memory import check_fits
from runner.training import checkpoint
from runner.training.train import train

REMOTE = ["ray", "slurm"]


@pytest.mark.parametrize("name", REMOTE)
def test_a_run_is_the_same_wherever_it_trains(name):
    here, there = configure(), configure(f"executor={name}", "executor.cpus=4")
    assert run_id(here) == run_id(there) and as_kept(here) == as_kept(there)


@pytest.mark.parametrize("name", REMOTE)
def test_a_run_elsewhere_is_planned_for_what_it_gets_there(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def there(*overrides):
        return configure(f"executor={name}", *overrides)

    assert device_of(there()).type == device_of(there("executor.gpus=1", "device=cpu")).type == "cpu"
    assert device_of(there("executor.gpus=1")).type == device_of(there("executor.gpus=1", "device=cuda")).type == "cuda"
    check_tf32(there("executor.gpus=1", "tf32=true"))
    with pytest.raises(ConfigError, match=r"device=cuda: executor\.gpus=0 asks for no GPU there"):
        there("device=cuda")
    assert plan.memory_budget(there("executor.memory=8")) == 2 * 2**30
    large = there("task.width=4096", "executor.memory=0.1")
    with pytest.raises(ConfigError, match=r"task\.\w+=\d+: a run takes about .*, and executor\.memory is 0\.1 GiB"):
        check_fits([[large]])


def test_workers_are_divided_among_gpus(monkeypatch):
    config = configure()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (int((8 + torch.device("cuda", gpu).index) * 2**30), 0))
    assert plan.gpus(config) == plan.max_workers(config) == 4
    assert plan.memory_budget(config) == 2 * 2**30  # a quarter of the one with least
    assert plan.memory_budget(configure("workers=8")) == 2**30  # two share it
    alone = configure("device=cuda:1")
    assert plan.gpus(alone) == 0 and plan.max_workers(alone) == 1


def test_each_worker_has_a_gpu_of_its_own(monkeypatch):
    started = []

    class Process:
        def __init__(self, target, args, daemon):
            started.append(args[2])

        def start(self):
            pass

    context = type("Context", (), {"Process": Process})
    monkeypatch.setattr(local.multiprocessing, "get_context", lambda kind: context)
    pool = local.Processes(5, 1, False, gpus=2)
    workers = [pool._start() for _ in range(4)]
    assert started == [0, 1, 0, 1]
    pool.workers.remove(workers[2])  # it died
    pool._start()
    assert started[-1] == 0
    assert local.Processes(2, 1, False, gpus=0)._start().gpu is None


def test_what_is_not_installed_is_said(cli, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name in ("ray", "submitit"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        code, _, err = cli("steps=1", "task.width=8", f"executor={name}")
        assert code == 2 and f"executor={name}: {package} is not installed; pip install" in err


def test_a_machine_without_slurm_is_one_message(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", type(sys)("submitit"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, _, err = cli("steps=1", "task.width=8", "executor=slurm")
    assert code == 2 and "there is no sbatch here" in err


class Losing(local.InProcess):
    """Its machine is lost with the first stacks that it is given."""

    times = 2

    def ended(self, listener, stream):
        if self.times:
            self.times -= 1
            [(stack, _)], self.jobs = self.jobs, []
            return [base.StackResult(stack, error="its machine was lost", lost=True)]
        return super().ended(listener, stream)


@pytest.mark.parametrize(("times", "failed"), [(2, 0), (100, RUNS)])
def test_a_stack_whose_machine_is_lost_is_tried_again_as_it_is(undisturbed, cli, outputs, monkeypatch, times, failed):
    """A few times; a stack that is lost each time is tried run by run in the end, and has failed."""
    monkeypatch.setattr(local, "InProcess", Losing)
    monkeypatch.setattr(Losing, "times", times)
    code, out, _ = cli(*SWEEP, "workers=1")
    if failed:
        assert code == 1 and f"{failed} failed" in out and "its machine was lost" in out
    else:
        assert code == 0
        same_store(outputs, undisturbed)


def test_training_that_is_told_to_leave_saves_its_state_and_goes_on_from_there(tmp_path, monkeypatch):
    config = configure("task.width=16", "task.teacher_width=16", "steps=30", f"outputs={tmp_path}")
    [expected] = train([configure("task.width=16", "task.teacher_width=16", "steps=30")])

    def leave(step, *rest):
        if step == 10:
            checkpoint.leave()

    try:
        with pytest.raises(KeyboardInterrupt):
            train([config], leave)
    finally:
        checkpoint.stay()
    assert checkpoint.Checkpoint([config]).path.exists()
    steps = []
    [outcome] = train([config], lambda step, *rest: steps.append(step))
    assert steps == list(range(11, 31))
    pd.testing.assert_frame_equal(outcome.steps, expected.steps, check_exact=True)
    rejects(np.testing.assert_array_equal, outcome.steps["train/loss"], expected.steps["train/loss"] * (1 + 1e-6))


def test_a_job_stores_what_forbids_its_runs(tmp_path, monkeypatch):
    """And trains those of another task."""
    bad = configure("task=language_model", "task.width=32", "steps=1", f"outputs={tmp_path}")
    good = configure("task.width=8", "steps=1", f"outputs={tmp_path}")
    options = configure("executor=slurm").executor

    def forbidden(task):
        raise ConfigError("there is no such text")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # which is put back
    monkeypatch.setattr(TASKS["language_model"], "prepare", staticmethod(forbidden))
    Job([bad, good], options)()
    with Store(str(tmp_path)) as store:
        assert store.outcome(bad).error == "there is no such text"
        assert store.outcome(good).status == "finished"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # no GPU was asked for
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"executor\.gpus=1: torch finds no GPU"):
        base.use_own_gpu(1, "auto")
    base.use_own_gpu(1, "cpu")


def test_what_an_earlier_attempt_left_without_a_result_is_discarded(cli, outputs):
    """So that a job which ends without a result is not taken for one that failed before; a result stays."""
    cli("steps=1", "task.width=8")
    config = configure("steps=1", "task.width=8", f"outputs={outputs}")
    with Store(str(outputs)) as store:
        store.discard(config)
        assert store.outcome(config).status == "finished"
        meta = store.path(config) / "meta.json"
        meta.write_text(meta.read_text().replace('"finished"', '"failed"'))
        assert store.outcome(config).status == "failed"
        store.discard(config)
        assert store.outcome(config) is None

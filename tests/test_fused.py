"""The fused step against autograd in float64, and bit for bit against itself in other company."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import configure, rejects

from runner.config.registry import TASKS
from runner.training.fused.kernels import LANES, TILE
from runner.training.fused.step import Fused
from runner.training.start import build_adapters
from runner.training.train import build_task, train

TASK_NAMES = [name for name, task in TASKS.items() if task.fused]

# width, points, rank, alpha: around and across the borders of blocks (4), lanes and tiles, at their smallest, s ≠ 1
SHAPES = [
    (16, 1, 1, 1.0),
    (1, 5, 1, 3.0),
    (LANES, LANES, 4, 4.0),
    (LANES + 1, 3, 2, 1.0),
    (37, LANES + 2, 3, 7.5),
    (TILE + 5, 130, 16, 4.0),
    (130, 2 * LANES + 1, 5, 2.5),
    (2 * TILE + 4, 1000, 4, 4.0),
]
chance = random.Random(0)
SHAPES += [
    (chance.randint(9, 700), chance.randint(1, 400), chance.randint(1, 9), chance.uniform(0.1, 9)) for _ in range(8)
]


# what lets the smallest widths be built, and inits that do not leave the task at a point without gradients
SMALLEST = {"teacher_student": ["task.teacher_rank=1"], "feature_regression": ["task.target_rank=1"], "sine": []}
INITS = dict.fromkeys(SMALLEST, ("gaussian_A", "gaussian_B")) | {"sine": ("orthogonal", "gaussian_AB")}


def problem(name, width, points, rank, alpha, dtype="float64", *more, runs=3):
    """A task and K adapters with nothing at zero."""
    alphas = [] if alpha is None else [f"adapter.alpha={alpha}"]
    sizes = [f"task.width={width}", f"task.train_points={points}", f"adapter.rank={rank}", *alphas, *SMALLEST[name]]
    config = configure(f"task={name}", *sizes, f"dtype={dtype}", f"seed={width}", *more)
    kind = getattr(torch, dtype)
    task = build_task([config]).to(torch.device("cpu"), kind)
    adapter = build_adapters([config] * runs, task, torch.device("cpu"), kind)["hidden"]
    g = torch.Generator().manual_seed(points)
    with torch.no_grad():
        for p in adapter.parameters.values():
            p += torch.randn(p.shape, generator=g) / 3
    return task, adapter


def agree(fused, autograd, rtol):
    """Losses, and gradients relative to the largest entry: an entry that cancels to nothing has no digits to compare."""
    torch.testing.assert_close(fused[0], autograd[0].to(fused[0]), rtol=rtol, atol=0)
    for ours, theirs in zip(fused[1], autograd[1], strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs.to(ours)).abs().max() <= rtol * theirs.abs().max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", TASK_NAMES)
def test_losses_and_gradients_are_autograds(name, shape):
    task, adapter = problem(name, *shape)
    fused, autograd = (engine.loss_and_grad({"hidden": adapter}) for engine in (Fused(task), task))
    agree(fused, autograd, 1e-12)  # sums of up to 1000 terms in another order
    losses, (grad_A, grad_B) = autograd
    rejects(agree, fused, (losses * (1 + 1e-9), [grad_A, grad_B]), 1e-12)
    rejects(agree, fused, (losses, [grad_A * (1 + 1e-9), grad_B]), 1e-12)
    rejects(agree, fused, (losses, [grad_A, grad_B * (1 + 1e-9)]), 1e-12)
    ours, theirs = (engine.evaluate({"hidden": adapter})["eval/loss"] for engine in (Fused(task), task))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_float32_is_as_accurate_as_autograds(name):
    """Both round; neither may be further from the float64 truth than a few times the other."""
    shape = 2 * TILE + 36, 1000, 4, 4.0  # a width, and with it a seed, for which no unit is at its kink
    task, adapter = problem(name, *shape, "float32")
    exact_task = problem(name, *shape)[0].to(torch.device("cpu"), torch.float32)
    exact_task = exact_task.to(torch.device("cpu"), torch.float64)  # the same float32 numbers, computed with exactly
    exact_adapter = type(adapter)(*(t.detach().double() for t in (adapter.A, adapter.B)), adapter.scale.double())
    y = exact_adapter(exact_task.train.Z, exact_task.train.y0)
    assert y.abs().min() > 1e-6 or exact_task.readout is None  # there rounding would decide whether it is on
    _, exact = exact_task.loss_and_grad({"hidden": exact_adapter})

    def worst(gradients):
        return max(((g - e).norm() / e.norm()).item() for g, e in zip(gradients, exact, strict=True))

    rounding = worst(task.loss_and_grad({"hidden": adapter})[1])

    def check(gradients):
        assert worst(gradients) < 3 * rounding

    gradients = Fused(task).loss_and_grad({"hidden": adapter})[1]
    check(gradients)
    rejects(check, [g * (1 + 5 * rounding) for g in gradients])


@pytest.mark.parametrize("more", [["init=pissa"], ["adapter=vera"]], ids=str)
def test_factors_that_are_functions_of_what_trains(more):
    """An offset beside the factors, and VeRA's diagonals: gradients go back to the parameters."""
    task, adapter = problem("teacher_student", 37, 130, 6, None, "float64", *more)
    fused, autograd = (engine.loss_and_grad({"hidden": adapter}) for engine in (Fused(task), task))
    agree(fused, autograd, 1e-12)
    assert [g.shape for g in fused[1]] == [p.shape for p in adapter.parameters.values()]
    rejects(agree, fused, (autograd[0], [g * (1 + 1e-9) for g in autograd[1]]), 1e-12)


def test_dead_units_get_no_gradient():
    """Where every unit of every point is off, the loss is the mean square of the target and nothing moves."""
    task, adapter = problem("teacher_student", 30, 20, 3, 3.0)
    task.train.y0.fill_(-1e6)
    losses, gradients = Fused(task).loss_and_grad({"hidden": adapter})
    torch.testing.assert_close(losses, task.train.target.square().mean().expand(3))
    assert all((g == 0).all() for g in gradients)
    task.train.y0[0, 0] = 1e6  # one unit on at one point: the check would have seen it
    assert all((g != 0).any() for g in Fused(task).loss_and_grad({"hidden": adapter})[1])


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_units_at_the_kink_have_no_slope(zero):
    """ReLU'(0) = 0, as autograd takes it: a unit at exactly 0 passes no gradient, one a rounding above does."""
    task, adapter = problem("teacher_student", 30, 20, 3, 3.0)
    with torch.no_grad():
        adapter.B[:, :10] = 0  # of these units the output is y0
    task.train.y0[:, :10] = zero

    def check(still):
        fused, autograd = (engine.loss_and_grad({"hidden": adapter}) for engine in (Fused(task), task))
        agree(fused, autograd, 1e-12)
        for _, (_, grad_B) in (fused, autograd):
            assert grad_B[:, 10:].any() and grad_B[:, :10].any() != still

    check(still=True)
    rejects(check, False)
    task.train.y0[:, :10] = 1e-300
    check(still=False)


# Bit for bit --------------------------------------------------------------------------------------


def grid(name, *overrides):
    """Runs of one stack; an odd width and rank, so that no run starts where vectors do."""
    shape = [
        f"task={name}",
        *SMALLEST[name],
        "task.width=83",
        "task.train_points=150",
        f"adapter.rank={2 if name == 'sine' else 3}",
        "steps=12",
        "eval.every=5",
    ]
    return [
        configure(*shape, f"init={init}", f"optimizer.lr={lr}", *overrides)
        for init in INITS[name]
        for lr in (1e-3, 1e-2, 3e-2, 1e4)  # the last diverges
    ]


def identical(a: pd.DataFrame, b: pd.DataFrame) -> None:
    assert a.shape == b.shape
    for name in a:
        assert a[name].to_numpy().tobytes() == b[name].to_numpy().tobytes(), name


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "signsgd"])
@pytest.mark.parametrize("name", TASK_NAMES)
def test_a_run_has_the_same_bits_in_every_stack(name, optimizer):
    configs = grid(name, f"optimizer={optimizer}", "optimizer.weight_decay=0.01")
    outcomes = train(configs)
    assert {"finished", "diverged"} == {outcome.status for outcome in outcomes} or optimizer == "signsgd"
    together = [outcome.steps for outcome in outcomes]
    for size in (1, 3, 5):
        apart = [outcome.steps for k in range(0, len(configs), size) for outcome in train(configs[k : k + size])]
        for a, b in zip(apart, together, strict=True):
            identical(a, b)
    nudged = together[0].copy()
    nudged.loc[3, "feature/Z_A"] = np.nextafter(nudged.loc[3, "feature/Z_A"], 1)
    rejects(identical, nudged, together[0])


def test_a_run_has_the_same_bits_on_any_number_of_threads(tmp_path):
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import test_fused
from runner.core.machine import use_threads
from runner.training.train import train
use_threads(int(sys.argv[2]))
for name in test_fused.TASK_NAMES:
    for k, outcome in enumerate(train(test_fused.grid(name))):
        outcome.steps.to_parquet(f"{sys.argv[3]}/{name}-{k}-{sys.argv[2]}.parquet")
"""
    for threads in ("1", "3"):
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent), threads, str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads},
            check=True,
        )
    frames = {path.stem.rpartition("-"): pd.read_parquet(path) for path in tmp_path.iterdir()}
    assert len(frames) == 2 * 8 * len(TASK_NAMES)
    for (run, _, _), frame in frames.items():
        identical(frame, frames[run, "-", "1"])


def test_autograd_is_used_when_asked_for():
    fused, autograd = (
        train(grid("teacher_student", f"engine={engine}")[:1])[0].steps for engine in ("auto", "autograd")
    )
    pd.testing.assert_frame_equal(fused, autograd, rtol=1e-4, atol=1e-6)  # float32, twelve steps
    rejects(identical, fused, autograd)

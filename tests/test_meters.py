"""Measuring a layer: without the kernels, on any number of threads, and in the last row, which no update follows."""

import math
from itertools import product

import pytest
import torch
from conftest import configure, rejects

from runner.adapters.dora import WeightRows
from runner.config.identity import with_values
from runner.tasks.base import Probe
from runner.training.measure import layer
from runner.training.measure.layer import changes
from runner.training.measure.layers import Meters
from runner.training.measure.metrics import METRICS, is_increment
from runner.training.start import build_adapters
from runner.training.train import build_task, train

CPU, DOUBLE = torch.device("cpu"), torch.float64
SMALL = "task.width=20 task.teacher_width=12 task.train_points=15 dtype=float64 adapter.rank=3".split()
KINDS = {"lora": "AB", "dora": "ABm", "vera": "db", "lora log.directions=true": "AB"}  # and what they train


def measured(kind: str, dtype: str, runs: int = 3):
    """(layers, columns, K) around an update of factors with nothing at zero, in three layers; one has a rank of its own."""
    chance, layers, parameters = torch.Generator().manual_seed(0), [], [[], [], []]
    for rank in (3, 2, 3):
        config = configure(*SMALL, *f"adapter={kind}".split(), f"dtype={dtype}", f"adapter.rank={rank}")
        task = build_task([config]).to(CPU, getattr(torch, dtype))
        adapter = build_adapters([config] * runs, task, CPU, getattr(torch, dtype))["hidden"]
        probe = task.probe(11)["hidden"]
        probe = Probe(probe.Z * (1 + len(layers)), probe.Y0)  # of its own
        layers.append((adapter, probe, task.W0.to(adapter.scale) if config.log.directions else None))
        for of in parameters:
            of += [p.detach() + torch.randn(p.shape, generator=chance) / 3 for p in adapter.parameters.values()]
    meters = Meters(layers)
    meters.out.fill_(torch.nan)
    return meters.measure(*parameters)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_devices_measure_what_the_kernels_do(kind, dtype, monkeypatch):
    """On the CPU, without the kernels, layers of a shape at once; both compute in float64, whatever the factors are. Each layer's
    column on its own."""

    def agree(ours, other):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=0)

    ours = measured(kind, dtype)
    monkeypatch.setattr(layer.compiled, "has_kernels", lambda device: False)
    other = measured(kind, dtype)
    agree(ours, other)
    assert not torch.equal(ours, other)  # they were computed otherwise
    for i, j in product(*map(range, ours.shape[:2])):
        wrong = other.clone()
        wrong[i, j] *= 1 + 1e-8
        rejects(agree, ours, wrong)
    rejects(agree, ours, other.flip(0))


@pytest.mark.parametrize("back", [0.0, -2.0])
@pytest.mark.parametrize("across", [1e-8, 1e-4, 1.0, 10.0])
def test_the_change_of_a_direction_keeps_its_digits(across, back):
    """Rows w that become (1 + back)·w + across·w', |w'| = |w| at right angles, so that all angles are known; 1 - cos of the
    smallest is 5e-17, of which a cosine knows nothing. Lengths of rows that turn back are differences of squares."""
    n, length = 4, 3.0
    one = torch.eye(n, dtype=DOUBLE)
    rows = WeightRows(length * one, DOUBLE)
    magnitude, direction = changes(rows, one[None], length * (back * one + across * one.roll(1, 1))[None])

    def check(direction):
        closer = math.log1p(across**2) / 2  # cos = ± e^-closer
        expected = -math.expm1(-closer) if back == 0 else 1 + math.exp(-closer)
        assert direction.item() == pytest.approx(expected, rel=1e-12, abs=0)
        assert magnitude.item() == pytest.approx(length * math.expm1(closer), rel=1e-12, abs=0 if back == 0 else 1e-14)

    check(direction)
    rejects(check, direction * (1 + 1e-10))
    if across == 1e-8 and back == 0:
        assert 1 - torch.nn.functional.cosine_similarity(one[0] + across * one[1], one[0], dim=0) == 0


@pytest.mark.parametrize("threads", [2, 5, 64])
def test_runs_are_measured_alike_in_any_number_of_groups(threads, monkeypatch):
    """Of which there are as many as threads; 7 runs, so that groups are uneven."""
    alone = measured("lora", "float64", runs=7)
    monkeypatch.setattr(layer.numba, "get_num_threads", lambda: threads)
    grouped = measured("lora", "float64", runs=7)
    assert torch.equal(grouped, alone)
    assert not torch.equal(grouped.roll(1, 2), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_row_holds_no_increment_of_anything_that_trains(kind):
    """Of a run that has ended with the steps, and of one that has diverged beside it; all else is there."""
    shared = configure(*SMALL, "steps=12", "log.layers=true", *f"adapter={kind}".split())
    configs = [with_values(shared, {"optimizer.lr": lr}) for lr in (1e-3, 1e6)]
    outcomes = train(configs)
    assert [outcome.status for outcome in outcomes] == ["finished", "diverged"]
    names = [f"update/{name}" for name in KINDS[kind]] + [n for n in METRICS if n.startswith("feature/d")]

    def check(frame):
        rest = frame.drop(
            columns=["weight/stable_rank", "layer", "eval/loss"], errors="ignore"
        )  # nan at zero, and by layer
        increments = [name for name in rest if is_increment(name)]
        assert set(increments) == set(names) and rest.iloc[-1][names].isna().all()
        assert rest.iloc[:-1].notna().all(axis=None) and rest.iloc[-1].drop(names).notna().all()

    for outcome in outcomes:
        for frame in (outcome.steps, outcome.layers):
            check(frame)
            for name in names:
                rejects(check, frame.assign(**{name: frame[name].ffill()}))

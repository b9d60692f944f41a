"""The slopes of ReLU that the fused step keeps from its forward to its backward pass, a bit each."""

import numpy as np
import pytest
import torch
from conftest import rejects
from test_fused import SHAPES, problem

from runner.training.fused import kernels
from runner.training.fused.kernels import LANES, WORD
from runner.training.fused.step import Fused


def kept_slopes(engine):
    """(K, N', n') bool: every point's and column's bit, with those of the padding."""
    words = engine.train.work.slopes[..., None]  # (K, chunks, words, LANES, 1)
    bits = words >> np.arange(WORD, dtype=np.uint32) & 1
    runs, chunks, words = bits.shape[:3]
    return bits.transpose(0, 1, 3, 2, 4).reshape(runs, chunks * LANES, words * WORD).astype(bool)


@pytest.mark.parametrize("shape", SHAPES[:8], ids=str)
@pytest.mark.parametrize("name", ["teacher_student", "sine"])
def test_the_slopes_that_are_kept_are_those_of_the_outputs(name, shape):
    """In float64, where no output is so near 0 that another order of its sum would have another sign; off in the padding."""
    task, adapter = problem(name, *shape)
    engine = Fused(task)
    engine.loss_and_grad({"hidden": adapter})
    y = adapter(task.train.Z, task.train.y0).detach()
    y[y.abs() < 1e-12 * y.abs().max()] = 0  # a sine's unit whose inputs are all off
    runs, points, width = y.shape

    def check(kept):
        assert (kept[:, :points, :width] == (y > 0).numpy()).all()
        assert not kept[:, points:].any() and not kept[:, :, width:].any()

    kept = kept_slopes(engine)
    check(kept)
    for place in {(0, 0, 0), (runs - 1, points - 1, width - 1), (1, points // 2, width // 3)}:
        wrong = kept.copy()
        wrong[place] ^= True
        rejects(check, wrong)


def test_the_backward_pass_takes_the_slopes_that_are_kept(monkeypatch):
    """A bit that is turned between the passes changes its column's gradient of B in its run, by g·Z_A, and nothing else."""
    task, adapter = problem("teacher_student", LANES + 37, LANES + 5, 3, 3.0)
    engine, backward = Fused(task), kernels.backward
    k, point, column = 1, LANES + 2, LANES + 9

    def turned(*given):
        engine.train.work.slopes[k, point // LANES, column // WORD, point % LANES] ^= np.uint32(1 << column % WORD)
        backward(*given)

    right = engine.loss_and_grad({"hidden": adapter})[1]
    on = kept_slopes(engine)[k, point, column]
    monkeypatch.setattr(kernels, "backward", turned)
    wrong = engine.loss_and_grad({"hidden": adapter})[1]
    assert wrong[0].equal(right[0])
    change = wrong[1] - right[1]
    P = engine.train.work.P[k, point // LANES].reshape(-1, LANES)[:3, point % LANES]
    expected = (-1.0 if on else 1.0) * task.readout[column] * torch.from_numpy(P) * adapter.scale[k]
    torch.testing.assert_close(change[k, column], expected, rtol=1e-9, atol=1e-12)
    assert expected.all()
    change[k, column] = 0
    assert not change.any()

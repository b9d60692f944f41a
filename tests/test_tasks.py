"""Frozen bases and data: pairing by seed, scales, and losses against networks written out in full."""

import pytest
import torch
from conftest import configure, rejects

from runner.adapters import LoRA
from runner.config import Config
from runner.config.registry import TASKS
from runner.core.rng import generator, normal
from runner.tasks.toy import SquaredError, ToyTask

CPU, DOUBLE = torch.device("cpu"), torch.float64
SMALL = {
    "teacher_student": ["task.width=32", "task.teacher_width=24", "task.teacher_rank=3", "task.train_points=40"],
    "feature_regression": ["task.width=32", "task.train_points=40", "task.target_rank=2"],
    "linear": ["task.width=32", "task.outputs=5", "adapter.rank=2", "task.train_points=40"],
}


def build(config: Config) -> ToyTask:
    return TASKS[config.task.name].build([config])


def tensors(task: ToyTask) -> list[torch.Tensor]:
    return [task.W0, task.train.Z, task.train.y0, task.train.target, task.test.Z, task.test.y0, task.test.target]


@pytest.mark.parametrize("name", SMALL)
def test_runs_of_one_seed_share_base_and_data_to_the_bit(name):
    """Whatever else differs between two runs; and another seed shares nothing."""

    def same(first, second):
        for a, b in zip(tensors(first), tensors(second), strict=True):
            assert torch.equal(a, b)

    mine = build(configure(f"task={name}", *SMALL[name], "init=gaussian_A"))
    same(
        mine,
        build(configure(f"task={name}", *SMALL[name], "init=gaussian_B", "optimizer=sgd", "steps=7", "dtype=float64")),
    )
    rejects(same, mine, build(configure(f"task={name}", *SMALL[name], "seed=1")))


def adapter(task: ToyTask, rank: int, seed: int = 0) -> LoRA:
    g = torch.Generator().manual_seed(seed)
    n_out, n_in = task.W0.shape
    A, B = (torch.randn(2, *shape, generator=g, dtype=DOUBLE) / 3 for shape in ((rank, n_in), (n_out, rank)))
    return LoRA(A, B, torch.tensor([1.0, 2.0], dtype=DOUBLE))


@pytest.mark.parametrize("residual", [True, False])
def test_teacher_student_is_the_network_written_out(residual):
    config = configure(*SMALL["teacher_student"], f"task.residual={residual}")
    task = build(config).to(CPU, DOUBLE)
    stacked = adapter(task, 4)
    W_out, W_h, Z = task.readout, task.W0.double(), task.train.Z
    Y_in = task.train.y0 - Z @ W_h.T  # what y0 holds besides W_h·Z: the residual branch, or nothing
    if residual:
        torch.testing.assert_close(
            Y_in.relu(), Z, rtol=0, atol=1e-5
        )  # base weights are float32: W_h·Z rounds at 1e-7·√n
    else:
        torch.testing.assert_close(Y_in, torch.zeros_like(Y_in), rtol=0, atol=1e-5)

    def check(scale):
        losses, _ = task.loss_and_grad({"hidden": stacked})
        for k, s in enumerate((1.0, 2.0)):
            pre = task.train.y0 + scale * s * Z @ stacked.A[k].T @ stacked.B[k].T
            expected = (pre.relu() @ W_out - task.train.target).square().mean()
            torch.testing.assert_close(losses[k], expected, rtol=1e-10, atol=0)

    check(1.0)
    rejects(check, 1.01)


@pytest.mark.parametrize("name", [*SMALL, "sine"])
def test_the_frozen_weight_gives_the_frozen_output(name):
    """y0 = W0·Z, and what is added to it; of sine it is zero. To the slices of exact products."""
    task = build(configure(f"task={name}", *SMALL.get(name, ["task.width=32"])))

    def check(W0):
        for batch in (task.train, task.test):
            added = 0 if batch.added is None else batch.added
            torch.testing.assert_close(batch.y0, batch.Z.double() @ W0.double().T + added, rtol=0, atol=1e-10)

    check(task.W0)
    rejects(check, task.W0 + 1e-6)


def has_variance(x, variance):
    """Sample variance of N normal entries within 5 standard errors, √(2/N) each."""
    assert abs(x.double().var() / variance - 1) < 5 * (2 / x.numel()) ** 0.5


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_frozen_weights_have_their_declared_variances(width, exponent):
    """W_h ~ N(0, 1/n), W_out ~ N(0, n^-out_exponent); Y_in = W_in·X has variance 1, as W_in ~ N(0, 1/d) and X ~ N(0, I_d)."""
    overrides = [f"task.width={width}", f"task.out_exponent={exponent}"]
    tasks = [build(configure(*overrides, f"seed={seed}")) for seed in range(8)]
    for other in ("task=feature_regression", "task=linear"):
        W0 = torch.cat([build(configure(other, overrides[0], f"seed={seed}")).W0.flatten() for seed in range(8)])
        has_variance(W0, 1 / width)
        rejects(has_variance, 1.3 * W0, 1 / width)
    has_variance(torch.cat([task.W0.flatten() for task in tasks]), 1 / width)
    W_out = torch.cat([task.readout for task in tasks])
    has_variance(W_out, width**-exponent)
    rejects(has_variance, W_out, width ** -(exponent + 0.5))
    Y_in = torch.cat([task.train.y0 - task.train.Z @ task.W0.double().T for task in tasks])
    assert Y_in.var().item() == pytest.approx(1, rel=0.1)  # 8 draws of X and W_in, correlated along rows and columns


def test_a_separate_teacher_is_the_network_written_out():
    """Its own W_in, W_out and a hidden change B*·A* without W_h, drawn in this order from the stream `teacher`."""
    config = configure(*SMALL["teacher_student"])
    task, g = build(config), generator(config.seed, "teacher")
    W_in, W_h = normal(24, 5, variance=1 / 5, generator=g), normal(24, 24, variance=1 / 24, generator=g)
    W_out = normal(24, variance=1 / 24, generator=g)
    B, A = normal(24, 3, variance=1 / 3, generator=g), normal(3, 24, variance=1 / 24, generator=g)
    X = normal(140, 5, variance=1, generator=generator(config.seed, "data"))

    def check(hidden, residual):
        Y_in = X.double() @ W_in.double().T
        Y = (residual * Y_in + Y_in.relu() @ hidden.T).relu() @ W_out.double()
        # slices of 23 bits: sums of 24 products are off by about 2^-45 of the largest
        torch.testing.assert_close(torch.cat([task.train.target, task.test.target]), Y, rtol=0, atol=1e-11)

    change = B.double() @ A.double()
    check(change, residual=1)
    rejects(check, change * (1 + 1e-7), 1)  # as float32 would round it
    rejects(check, W_h + change, 1)
    rejects(check, change, 0)


def test_a_teacher_on_the_students_base_can_be_matched():
    """With teacher=same_base, the factors of the teacher's own change give zero loss; for a separate teacher they do not."""

    def explained(teacher):
        config = configure(*SMALL["teacher_student"], f"task.teacher={teacher}", "adapter.rank=3")
        task = build(config).to(CPU, DOUBLE)
        own = generator(config.seed, "teacher")
        B = normal(32, 3, variance=1 / 3, generator=own)
        A = normal(3, 32, variance=1 / 32, generator=own)
        stacked = LoRA(A[None].double(), B[None].double(), torch.ones(1, dtype=DOUBLE))
        losses = task.evaluate({"hidden": stacked})["eval/loss"]
        assert losses.item() < 1e-10

    explained("same_base")
    rejects(explained, "separate")


def test_feature_regression_has_features_and_targets_of_unit_size():
    """E z² = 1 for √2·ReLU of unit-variance entries, and Θ(1) output entries, at every width."""
    for width in (64, 1024):
        task = build(configure("task=feature_regression", f"task.width={width}", "task.train_points=512"))
        assert task.train.Z.square().mean().item() == pytest.approx(1, rel=0.2)
        assert (task.train.Z / 2**0.5).square().mean().item() != pytest.approx(1, rel=0.2)  # without the √2
        change = task.train.target - task.train.y0
        assert 0.3 < change.square().mean().item() < 3
        assert torch.linalg.matrix_rank(change, rtol=1e-5) == 4


def test_feature_regression_loss_is_the_mean_over_points_and_outputs():
    task = build(configure("task=feature_regression", *SMALL["feature_regression"])).to(CPU, DOUBLE)
    stacked = adapter(task, 4)
    losses, _ = task.loss_and_grad({"hidden": stacked})
    for k, s in enumerate((1.0, 2.0)):
        y = task.train.y0 + s * task.train.Z @ (stacked.B[k] @ stacked.A[k]).T
        errors = [(y[i, j] - task.train.target[i, j]).item() ** 2 for i in range(40) for j in range(32)]
        assert losses[k].item() == pytest.approx(sum(errors) / (40 * 32), rel=1e-10)
        assert losses[k].item() != pytest.approx(sum(errors) / 40, rel=1e-10)  # the sum over outputs


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_each_runs_own(name):
    """Central differences of run k's loss, and no run's loss depends on another's factors."""
    config = configure(f"task={name}", *SMALL[name])
    task = build(config).to(CPU, DOUBLE)
    stacked = adapter(task, config.adapter.rank)
    _, gradients = task.loss_and_grad({"hidden": stacked})
    h = 1e-6
    for parameter, gradient in zip(stacked.parameters.values(), gradients, strict=True):
        for k in range(2):
            place = (k, 1, 1)
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[place] += sign * h
                    values.append(losses_of(task, stacked))
                    parameter[place] -= sign * h
            slope = (values[0] - values[1]) / (2 * h)
            assert slope[k].item() == pytest.approx(gradient[place].item(), rel=1e-4, abs=1e-8)
            assert slope[k].item() != pytest.approx(1.01 * gradient[place].item(), rel=1e-4, abs=1e-8)
            assert slope[1 - k] == 0


def losses_of(task: ToyTask, stacked: LoRA) -> torch.Tensor:
    return task.loss(stacked(task.train.Z, task.train.y0), task.train.target)


def test_the_probe_is_the_first_training_points():
    task = build(configure(*SMALL["teacher_student"], "probe.size=7"))
    assert torch.equal(task.probe(7)["hidden"].Z, task.train.Z[:7])


def test_a_long_sum_of_squares_keeps_its_digits():
    """A million float32 terms: rounding stays near 1e-7, where adding them one after the other loses two digits more."""
    y, target = torch.randn(2, 1000, 1024, generator=torch.Generator().manual_seed(0)), torch.ones(1000, 1024)
    exact = (y.double() - target.double()).square().sum((1, 2))

    def check(sums):
        torch.testing.assert_close(sums.double(), exact, rtol=1e-6, atol=0)

    check(SquaredError.apply(y.clone(), target))
    rejects(check, torch.linalg.vector_norm((y - target).flatten(1), dim=1).square())

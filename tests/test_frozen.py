"""The columns of frozen layers, feature/Z and feature/Y0, in the tables of runs: against layers called on their own."""

import pandas as pd
import pytest
import reference
import torch
from conftest import configure, rejects
from models import CPU, DOUBLE, overrides

from runner.inits.spectral import nf4
from runner.training.train import build_task, train

TOY = "task.width=32 task.train_points=30 probe.size=9 adapter.rank=1 dtype=float64 steps=3".split()
COLUMNS = ["feature/Z", "feature/Y0"]


def holds(steps: pd.DataFrame, Z: torch.Tensor, Y0: torch.Tensor) -> None:
    """In every row; to the bits that a product of slices keeps."""
    for column, vectors in zip(COLUMNS, (Z, Y0), strict=True):
        assert steps[column].tolist() == pytest.approx([reference.size(vectors)] * len(steps), rel=1e-9, abs=0)


@pytest.mark.parametrize("task", ["teacher_student", "feature_regression", "linear"])
def test_toys_measure_the_frozen_layer_whatever_is_trained(task):
    """Runs of one stack and of others, W0 and nothing beside it (which the residual branch of teacher_student is)."""
    shared = [*TOY, f"task={task}"]
    toy = build_task([configure(*shared)])
    Z = toy.train.Z[:9].double()
    Y0 = Z @ toy.W0.double().T
    stack = [
        configure(*shared, init, f"optimizer.lr={lr}")
        for lr in (1e-3, 1e-1)
        for init in ("init=gaussian_A", "init=zero")
    ]
    configs = [
        stack,
        *([configure(*shared, more)] for more in ("init=pissa", "adapter=dora", "adapter=vera", "steps=1")),
    ]
    for outcome in (outcome for runs in configs for outcome in train(runs)):
        holds(outcome.steps, Z, Y0)
        rejects(holds, outcome.steps, Z, (1 + 1e-8) * Y0)
        rejects(holds, outcome.steps, toy.train.Z.double(), Y0)  # more of the data
    if toy.train.added is not None:
        rejects(holds, outcome.steps, Z, toy.train.y0[:9])


def test_an_init_that_moves_a_product_out_of_the_base_leaves_Y0_and_one_that_replaces_the_base_does_not():
    """pissa trains on W0 - s·B0·A0, loftq on a rounded W0."""
    shared = [*TOY, "task=feature_regression"]
    toy = build_task([configure(*shared)])
    Z, W0 = toy.train.Z[:9].double(), toy.W0.double()
    U, S, Vh = torch.linalg.svd(W0)
    [pissa], [loftq] = (
        train([configure(*shared, *more)]) for more in (["init=pissa"], ["init=loftq", "init.iterations=1"])
    )
    holds(pissa.steps, Z, Z @ W0.T)
    rejects(holds, pissa.steps, Z, Z @ (W0 - S[0] * torch.outer(U[:, 0], Vh[0])).T)
    holds(loftq.steps, Z, Z @ nf4(W0, 64).T)
    rejects(holds, loftq.steps, Z, Z @ W0.T)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_each_layer_of_a_model_is_measured_on_what_it_reads_in_the_frozen_model(kind, tmp_path):
    """By the layers' own outputs in transformers' forward pass, less their bias (gpt2's layers have one); `steps` has means."""
    config = configure(*overrides(tmp_path, "language_model", kind), "log.layers=true")
    task = build_task([config]).to(CPU, DOUBLE)
    seen = {}
    for name, module in task.modules.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    task.model(input_ids=task.held_out.tokens.long())
    [outcome] = train([config])
    places = torch.linspace(0, task.held_out.tokens.numel() - 1, 20).round().long()
    assert set(outcome.layers["layer"]) == set(task.layers)
    for name, rows in outcome.layers.groupby("layer"):
        Z, y = (x.flatten(0, 1)[places] for x in seen[name])
        bias = task.modules[name].bias
        holds(rows, Z, y if bias is None else y - bias)
        rejects(holds, rows, Z, 1.001 * y)
        if bias is not None:
            rejects(holds, rows, Z, y)
    means = outcome.layers.groupby("step")[COLUMNS].mean()
    pd.testing.assert_frame_equal(means, outcome.steps.set_index("step")[COLUMNS], rtol=1e-12)


def test_what_the_adapter_does_is_no_part_of_it(tmp_path):
    """The same numbers at every step, while those of the adapter move."""
    [outcome] = train([configure(*overrides(tmp_path, "language_model", "llama"), "optimizer.lr=0.1")])
    assert (outcome.steps[COLUMNS].nunique() == 1).all() and (outcome.steps[COLUMNS] > 0).all(axis=None)
    assert outcome.steps["feature/Z_B"].is_unique

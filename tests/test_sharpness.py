"""How sharp the loss is: against dense Hessians and scans in float64, and what must not change because it is measured."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import configure, rejects

from runner.config.identity import as_kept, run_id, with_values
from runner.training.measure import curvature, sharpness
from runner.training.measure.sharpness import COLUMNS, Look
from runner.training.start import build_adapters
from runner.training.train import build_task, train

F64 = torch.float64
PRODUCTS, PASSES = sharpness.PRODUCTS[Look.ALL], dict(sharpness.PASSES)
LOOKS = ["sharpness.every=4", "sharpness.eigenvalues=2"]
TINY = ["task.width=6", "task.train_points=30", "task.test_points=4", "adapter.rank=2", "probe.size=4", "dtype=float64"]
TASKS = {"teacher_student": ["task.teacher_width=16"], "feature_regression": []}
OPTIMIZERS = {
    "adamw": ["optimizer.lr=0.02", "optimizer.lr_ratio=3"],
    "sgd": ["optimizer=sgd", "optimizer.lr=0.05", "optimizer.momentum=0.5"],
    "signsgd": ["optimizer=signsgd", "optimizer.lr=0.01"],
    "sgd, clipped": ["optimizer=sgd", "optimizer.lr=0.5", "optimizer.clip=0.05"],
    "signsgd, clipped": ["optimizer=signsgd", "optimizer.lr=0.01", "optimizer.clip=0.05"],
}


def reference(config):
    """(steps, columns) of a run, by torch's optimizers, dense Hessians and a scan along each update."""
    task = build_task([config]).to(torch.device("cpu"), F64)
    adapter = build_adapters([config], task, torch.device("cpu"), F64)["hidden"]
    batch, w, shapes = task.train, task.readout, [p.shape[1:] for p in adapter.parameters.values()]
    theta = torch.cat([p.detach().flatten() for p in adapter.parameters.values()])

    def loss(theta):
        A, B = (part.view(shape) for part, shape in zip(theta.split([s.numel() for s in shapes]), shapes, strict=True))
        y = batch.y0 + config.adapter.alpha / config.adapter.rank * batch.Z @ A.T @ B.T
        return ((y - batch.target) if w is None else (y.relu() @ w - batch.target)).square().mean()

    o, is_B = config.optimizer, torch.cat([torch.full((s.numel(),), i) for i, s in enumerate(shapes)]) == 1
    ratio = torch.where(is_B, o.lr_ratio, 1.0).double()
    p = [theta[~is_B].clone().requires_grad_(), theta[is_B].clone().requires_grad_()]
    groups = [{"params": [p[0]], "lr": o.lr}, {"params": [p[1]], "lr": o.lr * o.lr_ratio}]
    if o.name == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=0)
    elif o.name == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=o.momentum)
    rows = []
    for t in range(config.steps):
        at = torch.cat([x.detach() for x in p])
        gradient = torch.autograd.functional.jacobian(loss, at)
        clipped = 1.0 if o.clip is None else min(1.0, o.clip / (float(gradient.norm()) + 1e-6))
        p[0].grad, p[1].grad = clipped * gradient[~is_B], clipped * gradient[is_B]
        P = torch.ones_like(at)
        if o.name == "signsgd":
            with torch.no_grad():
                for x, lr in zip(p, (o.lr, o.lr * o.lr_ratio), strict=True):
                    x -= lr * x.grad.sign()
            P = (clipped * gradient).abs()
        else:
            optimizer.step()
        if o.name == "adamw":
            v = torch.cat([optimizer.state[x]["exp_avg_sq"] for x in p])
            P = (1 - o.beta1 ** (t + 1)) * ((v / (1 - o.beta2 ** (t + 1))).sqrt() + o.eps)
            P = torch.where(v > 0, P, 0)  # at the first step one factor has no gradient
        D = torch.where(P > 0, clipped * ratio / P, 0)
        H = torch.autograd.functional.hessian(loss, at)
        S = D.sqrt()[:, None] * H * D.sqrt()
        update = torch.cat([x.detach() for x in p]) - at
        c = first_rise(lambda c, at=at, u=update: float(loss(at + c * u) - loss(at)), float(gradient @ update))
        rows.append([c * o.lr, *(float(torch.linalg.eigvalsh(M)[-1]) for M in (H, S))])
    return np.array(rows)


def first_rise(change, slope):
    """The smallest c at which `change` is above 0: by a fine scan outward, and bisection."""
    if slope >= 0:
        return 0.0
    low = 0.0
    for c in np.geomspace(1e-4, 1e6, 3000):
        if not change(c) <= 0:
            break
        low = c
    for _ in range(60):
        middle = (low + c) / 2
        low, c = (middle, c) if change(middle) <= 0 else (low, middle)
    return c


@pytest.fixture
def thorough(monkeypatch):
    """As many products and passes as give the digits that there are."""
    monkeypatch.setattr(sharpness, "PRODUCTS", dict.fromkeys(Look, 24))
    monkeypatch.setattr(sharpness, "PASSES", dict.fromkeys(Look, 40))
    monkeypatch.setattr(curvature, "REACH", 1e-8)


@pytest.mark.parametrize("engine", ["fused", "autograd"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", TASKS)
def test_it_is_what_dense_hessians_and_a_scan_say(task, optimizer, engine, thorough):
    config = configure(
        f"task={task}",
        *TINY,
        *TASKS[task],
        *OPTIMIZERS[optimizer],
        "steps=4",
        "sharpness.every=1",
        "sharpness.eigenvalues=1",
        f"engine={engine}",
    )
    [outcome] = train([config])
    measured, expected = outcome.steps[list(COLUMNS)].to_numpy(), reference(config)
    assert np.isnan(measured[-1]).all()

    def check(expected):
        np.testing.assert_allclose(measured[:-1], expected, rtol=1e-4)  # of differences by √eps, and of slopes at kinks

    check(expected)
    rejects(check, expected * [1.001, 1, 1])
    rejects(check, expected * [1, 1.001, 1])
    rejects(check, expected * [1, 1, 1.001])


def test_runs_from_before_eigenvalues_had_a_field_are_others():
    """They have fewer digits. Without looks the field says nothing."""
    assert run_id(configure()) == run_id(configure("sharpness.eigenvalues=5"))
    looks = configure("sharpness.every=10")
    assert as_kept(looks)["sharpness"] == {"every": 10, "eigenvalues": 20}
    assert run_id(looks) != run_id(configure("sharpness.every=10", "sharpness.eigenvalues=5"))


@pytest.mark.parametrize("init", ["gaussian_A", "gaussian_B"])
def test_later_looks_have_products_enough(init, monkeypatch):
    """For 2% of what 40 give, in nine of ten; where H and P change as quickly as right after the start."""

    def eigenvalues(products):
        monkeypatch.setitem(sharpness.PRODUCTS, Look.ALL, products)
        [outcome] = train(
            [configure(f"init={init}", "task.width=48", "steps=60", *LOOKS[:1], "sharpness.eigenvalues=1")]
        )
        return outcome.steps[list(COLUMNS[1:])].dropna().to_numpy()

    expected = eigenvalues(40)

    def check(values):
        assert (abs(values / expected - 1) < 0.02).mean() > 0.9

    check(eigenvalues(PRODUCTS))
    rejects(check, eigenvalues(2))


@pytest.mark.parametrize("task", TASKS)
def test_early_looks_have_passes_enough(task, monkeypatch):
    """For 5% of what 40 give, in three of four: under Init[A] the critical rate falls by far with the first update."""

    def rates(passes):
        for look, number in passes.items():
            monkeypatch.setitem(sharpness.PASSES, look, number)
        widths, found = (64, 256), []
        for n in widths:
            config = configure(f"task={task}", f"task.width={n}", "optimizer.lr=1e-5", "steps=5", "sharpness.every=1")
            found.append(train([config])[0].steps[COLUMNS[0]].to_numpy()[1:-1])
        return np.concatenate(found)

    expected = rates(dict.fromkeys(Look, 40))

    def check(values):
        assert (abs(values / expected - 1) < 0.05).mean() >= 0.75
        assert (abs(values / expected - 1) < 0.2).all()

    check(rates(PASSES))
    rejects(check, rates(PASSES | {Look.EARLY: 3}))


def test_a_direction_that_is_lost_is_looked_for_anew():
    """After gradients that were not finite, or none, at one measurement."""
    M = torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(0), dtype=F64)
    M = M + M.mT
    measured = sharpness.Sharpness([torch.zeros(3, 10, dtype=F64)])
    measured.of_hessian[0], measured.of_hessian[1] = torch.nan, 0

    def largest(product):
        return measured._largest(product, measured.of_hessian, torch.ones(3, 10, dtype=F64), 12)

    def product(v):
        return (M @ v[:, :, None])[:, :, 0]

    expected = torch.linalg.eigvalsh(M)[:, -1]
    torch.testing.assert_close(largest(product), expected, rtol=1e-9, atol=0)
    assert largest(lambda v: torch.nan * v).isnan().all() and measured.of_hessian.isfinite().all()
    torch.testing.assert_close(largest(product), expected, rtol=1e-9, atol=0)


TOY = ["task.width=24", "task.teacher_width=16", "task.train_points=20", "steps=25"]
MODEL = [
    "task=language_model",
    "task.width=32",
    "task.layers=1",
    "task.pretrain_steps=0",
    "task.sequence_length=16",
    "task.eval_sequences=2",
    "steps=5",
]
KINDS = {
    "lora": TOY,
    "vera": [*TOY, "adapter=vera"],
    "dora": [*TOY, "adapter=dora"],
    "full": [*TOY, "adapter=full"],
    "an offset, clipped": [*TOY, "init=pissa", "optimizer.clip=0.1"],
    "some does not train": [*TOY, "init=mica"],
    "sgd": [*TOY, "optimizer=sgd"],
    "model": MODEL,
    "model, dropout, in parts": [*MODEL, "adapter.dropout=0.2", "task.accumulation=2"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_changes_nothing_else(kind, tmp_path):
    rest = [f"bases={tmp_path}", "eval.every=5", "log.weights=true"]
    [plain], [measured] = (train([configure(*KINDS[kind], *rest, *more)]) for more in ([], LOOKS))
    rows = measured.steps[[*COLUMNS, "step"]]
    assert set(rows["step"][rows[COLUMNS[1]].notna()]) == set(range(0, plain.steps["step"].max(), 8))
    assert set(rows["step"][rows[COLUMNS[0]].notna()]) <= set(range(0, plain.steps["step"].max(), 4))

    def check(other):
        pd.testing.assert_frame_equal(plain.steps, other.drop(columns=list(COLUMNS)), check_exact=True)

    check(measured.steps)
    rejects(check, measured.steps.assign(**{"train/loss": measured.steps["train/loss"] * (1 + 1e-9)}))
    assert plain.summary == measured.summary
    assert all((plain.weights[name] == measured.weights[name]).all() for name in plain.weights)
    assert (rows[COLUMNS[1]].dropna() > 0).all()


def test_a_run_that_diverges_has_none_where_it_ends_and_takes_none_of_its_neighbours():
    config = configure(*TOY, "sharpness.every=1", "sharpness.eigenvalues=1", "engine=fused")
    good, bad = (with_values(config, {"optimizer.lr": lr}) for lr in (0.01, 1e30))
    together, [alone] = train([bad, good]), train([good])
    ended = together[0].steps[list(COLUMNS)]
    assert together[0].status == "diverged" and ended.iloc[-1].isna().all() and len(ended) < len(alone.steps)
    pd.testing.assert_frame_equal(together[1].steps, alone.steps, check_exact=True)
    assert alone.steps[COLUMNS[1]].iloc[:-1].gt(0).all()

"""Where runs start: what inits are shown, what stays frozen, what may share a stack, and how many numbers train."""

import pytest
import torch
from conftest import configure, rejects
from models import CPU, DOUBLE, overrides, own, same
from test_fused import identical

from runner.config.registry import ADAPTERS, INITS
from runner.training.stack import stack_key
from runner.training.start import build_adapters, count
from runner.training.train import build_task, train

TOY = ["task.width=24", "task.train_points=40", "task.teacher_width=24", "steps=6"]


def toy(*more: str):
    return configure(*TOY, *more)


# What inits are shown -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacher_student", "feature_regression", "sine"])
def test_a_toy_shows_its_inputs_and_the_gradient_of_its_weight(name):
    """Central differences of the loss, in the direction of a change of W0 that an adapter makes."""
    teacher = ["task.teacher_width=12"] if name == "teacher_student" else []
    small = ["task.width=12", "task.train_points=30", *teacher, "adapter.rank=2"]
    task = build_task([configure(f"task={name}", *small, "init=gaussian_AB")])
    if name == "sine":  # from y = 0 no gradient comes back: from elsewhere it does
        task.train.y0.normal_(generator=torch.Generator().manual_seed(0))
    seen = task.calibrate(1000, {"inputs", "gradient"})["hidden"]
    Z = task.train.Z.double()
    same(seen.moment, Z.T @ Z / len(Z))
    same(seen.mean, Z.mean(0))
    g = torch.Generator().manual_seed(0)
    D = torch.randn(12, 12, generator=g, dtype=DOUBLE)
    task = task.to(CPU, DOUBLE)

    def loss(h):
        return task.loss((task.train.y0 + h * Z @ D.T)[None].clone(), task.train.target)[0]

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6

    def check(gradient):
        torch.testing.assert_close((gradient * D).sum(), slope, rtol=1e-5, atol=1e-9)

    check(seen.gradient)
    rejects(check, 1.01 * seen.gradient)
    rejects(check, seen.gradient.T)


@pytest.mark.parametrize(
    ("kind", "name"), [("llama", "language_model"), ("gpt2", "language_model"), ("roberta", "classification")]
)
def test_a_model_shows_its_layers_inputs_and_gradients(kind, name, tmp_path):
    """Moments over tokens that are no padding, and the gradient of the mean loss, from one pass over all examples at once."""
    [config] = [configure(*overrides(tmp_path, name, kind))]
    task = build_task([config]).to(CPU, DOUBLE)
    seen = task.calibrate(10, {"inputs", "gradient"})
    examples, rows = task.training.pick(10), torch.arange(10)
    layer = next(n for n in task.layers if n.endswith(("q_proj", "attn.c_attn", "self.query")))
    module, inputs = task.modules[layer], []
    module.register_forward_pre_hook(lambda module, given: inputs.append(given[0].detach()))
    module.weight.requires_grad_()
    [gradient] = torch.autograd.grad(task.per_example(examples, rows)["loss"].mean(), module.weight)
    x = inputs[0].flatten(0, 1) if examples.mask is None else inputs[0][examples.mask.bool()]
    same(seen[layer].moment, x.T @ x / len(x))
    same(seen[layer].mean, x.mean(0))
    same(seen[layer].gradient, gradient.T if kind == "gpt2" else gradient)
    rejects(same, seen[layer].gradient, 1.001 * seen[layer].gradient)
    assert not any(m.weight.requires_grad for n, m in task.modules.items() if n != layer)
    assert task.calibrate(10, {"gradient"})[layer].moment is None
    assert task.calibrate(10, {"inputs"})[layer].gradient is None


def test_a_replaced_weight_is_the_frozen_one():
    for residual in ("true", "false"):
        task = build_task([toy(f"task.residual={residual}")]).to(CPU, DOUBLE)
        added = 0 if task.train.added is None else task.train.added
        W = torch.randn(24, 24, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
        task.replace({"hidden": W})
        expected = task.train.Z @ W.T + added
        # What a toy's y0 held before was rounded to float32.
        torch.testing.assert_close(task.train.y0, expected, rtol=0, atol=1e-5)
        rejects(same, task.train.y0, expected - added - 1)


# What stays frozen, what trains -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_replaced_base_is_as_precise_as_the_run(dtype):
    """What DoRA measures the rows of is what the frozen outputs are of, to the run's precision and that of
    `product`; a base of float32 is not."""
    config = configure("task=feature_regression", "task.width=24", "init=loftq", "adapter.rank=4", f"dtype={dtype}")
    task = build_task([config]).to(CPU, getattr(torch, dtype))
    build_adapters([config], task, CPU, getattr(torch, dtype))

    def check(W0):
        Z, y0 = task.train.Z.double(), task.train.y0.double()
        rounding = 4 * torch.finfo(getattr(torch, dtype)).eps * y0.abs().max()
        assert ((Z @ W0.double().T - y0).abs() <= rounding + 24 * 2.0**-40 * Z.max() * W0.abs().max()).all()

    check(task.W0)
    if dtype == "float64":
        rejects(check, task.W0.float())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_init_that_an_adapter_takes_trains(adapter, dtype):
    trained = set()
    for init, found in INITS.items():
        if set(found.parameters) <= ADAPTERS[adapter].sides.keys():
            chosen = [*own(adapter, rank=4), f"init={init}", f"dtype={dtype}"]
            [outcome] = train([configure("task=feature_regression", "task.width=24", "steps=2", *chosen)])
            assert outcome.status == "finished" and outcome.steps["train/loss"].notna().all(), init
            trained.add(init)
    assert len(trained) >= 2 or adapter == "full"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd optimizer.momentum=0.9", "signsgd"])
def test_micas_B_does_not_move(optimizer):
    """Whatever the optimizer does to parameters that have a gradient; and clipping does not count its gradient."""
    fields = f"optimizer={optimizer} optimizer.weight_decay=0.1 optimizer.clip=0.01 optimizer.lr=0.1".split()
    mica, other = train([toy("init=mica", *fields), toy("init=gaussian_B", *fields)])

    def still(steps):
        assert (steps["update/B"].dropna() == 0).all() and (steps["grad/B"].iloc[1:] > 0).all()

    still(mica.steps)
    rejects(still, other.steps)
    assert (mica.steps["update/A"].dropna() > 0).all()
    assert mica.summary["trainable_parameters"] == 4 * 24 and other.summary["trainable_parameters"] == 2 * 4 * 24


TRAINED = {"lora": 2 * 24 * 4, "rslora": 2 * 24 * 4, "dora": 2 * 24 * 4 + 24, "vera": 24 + 4, "full": 24 * 24}


@pytest.mark.parametrize("adapter", TRAINED)
def test_the_number_of_trainable_parameters_is_in_the_summary(adapter):
    [outcome] = train([toy(*own(adapter, rank=4))])
    assert outcome.summary["trainable_parameters"] == TRAINED[adapter]


def test_a_models_trainable_parameters_are_those_of_its_layers_and_head(tmp_path):
    config = configure(*overrides(tmp_path, "classification", "roberta", "attention"))
    task = build_task([config]).to(CPU, DOUBLE)
    of_layers = sum(3 * sum(W.shape) for W in task.layers.values())
    of_heads = sum(n_out * n_in + n_out for n_out, n_in, _ in task.heads.values())
    assert count(build_adapters([config], task, CPU, DOUBLE)) == [of_layers + of_heads]


# What may share a stack ---------------------------------------------------------------------------

TOGETHER = [
    ("init=gaussian_A", "init=lora_one"),
    ("init=pissa", "init=lora_ga"),
    ("init=loftq", "init=loftq optimizer.lr=1"),
]
APART = [
    ("init=gaussian_A", "init=pissa"),
    ("init=gaussian_A", "init=loftq"),
    ("init=loftq", "init=loftq init.block=32"),
    ("init=gaussian_A", "init=eva"),
    ("init=eva", "init=eva init.rho=1"),
    ("adapter=lora", "adapter=rslora"),
    ("adapter=dora", "adapter=dora adapter.norm_gradient=true"),
    ("init=gaussian_AB", "init=gaussian_AB init.subtract=false"),
]


def test_what_changes_the_base_or_the_shape_of_factors_is_stacked_apart():
    def key(fields):
        return stack_key(toy(*fields.split()))

    assert all(key(a) == key(b) for a, b in TOGETHER)
    assert all(key(a) != key(b) for a, b in APART)


def test_runs_of_other_inits_in_a_stack_change_no_bit():
    """With weights of their own, taken from data or not, on the fused engine."""
    names = ("pissa", "corda", "lora_ga", "olora", "gaussian_AB")
    configs = [toy(f"init={name}", f"optimizer.lr={lr}") for name in names for lr in (0.01, 1e4)]
    assert len({stack_key(config) for config in configs}) == 1
    together = train(configs)
    for config, outcome in zip(configs, together, strict=True):
        [alone] = train([config])
        identical(alone.steps, outcome.steps)
    assert {outcome.status for outcome in together} == {"finished", "diverged"}

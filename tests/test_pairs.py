"""Riemannian preconditioning, Stable-LoRA's shrinking and frozen factors, beside PEFT's and what is written out."""

from types import SimpleNamespace

import pytest
import torch
from conftest import configure, rejects
from peft.optimizers import create_riemannian_optimizer
from test_checkpoint import same as same_runs
from torch import nn

from runner.adapters.lora import LoRA
from runner.config.identity import as_kept, run_id, with_values
from runner.core.gram import gram, inverse
from runner.training.optimizers.base import build
from runner.training.optimizers.pairs import Pairs
from runner.training.train import train

DOUBLE = torch.float64
R, N_IN, N_OUT, K = 3, 7, 5, 3
STEPS = 12


def options(name="adamw", **changes):
    common = {"weight_decay": 0.0, "riemannian": None, "shrink": None}
    own = {"adamw": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}, "sgd": {"momentum": 0.9}}[name]
    return SimpleNamespace(name=name, **common | own | changes)


def start(B=1.0):
    g = torch.Generator().manual_seed(0)
    A = torch.randn(K, R, N_IN, generator=g, dtype=DOUBLE)
    return A, B * torch.randn(K, N_OUT, R, generator=g, dtype=DOUBLE)


def gradient(p, t):
    return torch.sin(3 * p + t) + 0.3 * p


def ours(configs, lr=0.02, B=1.0, trains=None):
    """(A, B) (K, …) after every step."""
    adapter = LoRA(*(p.clone() for p in start(B)), torch.ones(K, dtype=DOUBLE))
    parameters = [adapter.A.detach(), adapter.B.detach()]
    pairs, optimizer = Pairs(configs, {"layer": adapter}, trains, torch.device("cpu")), build(configs, parameters)
    path = []
    for t in range(STEPS):
        gradients = pairs.precondition([gradient(p, t) for p in parameters], parameters)
        pairs.shrink(parameters)
        optimizer.step(gradients, torch.full((2, K), lr, dtype=DOUBLE))
        path.append([p.clone() for p in parameters])
    return path


class Model(nn.Module):
    """Two parameters that PEFT's optimizers take for those of a layer."""

    def __init__(self, A, B):
        super().__init__()
        self.layer = nn.Module()
        for name, value in (("lora_A", A), ("lora_B", B)):
            linear = nn.Linear(1, 1, bias=False)
            linear.weight = nn.Parameter(value.clone())
            setattr(self.layer, name, nn.ModuleDict({"default": linear}))


def theirs(configs, lr=0.02):
    paths = []
    for k, config in enumerate(configs):
        model = Model(*(p[k] for p in start()))
        own = (
            {"betas": (config.beta1, config.beta2), "eps": config.eps, "weight_decay": config.weight_decay}
            if config.name == "adamw"
            else {"momentum": config.momentum}
        )
        kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.SGD
        if config.riemannian is None:
            optimizer = kind(model.parameters(), lr=lr, **own)
        else:
            optimizer = create_riemannian_optimizer(model, kind, lr=lr, reg=config.riemannian, **own)
        A, B = (getattr(model.layer, name)["default"].weight for name in ("lora_A", "lora_B"))
        path = []
        for t in range(STEPS):
            for p in (A, B):
                p.grad = gradient(p.detach(), t)
            optimizer.step()
            path.append([A.detach().clone(), B.detach().clone()])
        paths.append(path)
    return [[torch.stack([path[t][i] for path in paths]) for i in range(2)] for t in range(STEPS)]


def same(mine, reference):
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_riemannian_preconditioning_is_pefts(name):
    """Runs of a stack have their own damping, and one has none."""
    configs = [options(name, riemannian=rho) for rho in (1e-2, 0.5, None)]
    same(ours(configs), theirs(configs))
    rejects(same, ours(configs), theirs([options(name, riemannian=rho) for rho in (1e-2, 0.5, 0.1)]))
    rejects(same, ours(configs), theirs([options(name)] * K))


@pytest.mark.parametrize("B", [0.0, 0.1, 1.0, 3.0])
def test_stable_lora_shrinks_a_while_it_is_the_larger_one(B):
    """Written out with torch's AdamW: before its step, A ← (1 - λ)·A while ‖A‖ ≥ (entries of A / entries of B)·‖B‖."""
    configs = [options(shrink=shrink) for shrink in (0.05, None, 0.2)]

    def reference(shares=R * N_IN / (R * N_OUT)):
        paths = []
        for k, config in enumerate(configs):
            a, b = (p[k].clone().requires_grad_() for p in start(B))
            optimizer, path = torch.optim.AdamW([a, b], lr=0.02, weight_decay=0.0), []
            for t in range(STEPS):
                a.grad, b.grad = gradient(a.detach(), t), gradient(b.detach(), t)
                if config.shrink is not None and a.norm() >= shares * b.norm():
                    a.data.mul_(1 - config.shrink)
                optimizer.step()
                path.append([a.detach().clone(), b.detach().clone()])
            paths.append(path)
        return [[torch.stack([path[t][i] for path in paths]) for i in range(2)] for t in range(STEPS)]

    same(ours(configs, B=B), reference())
    rejects(same, ours(configs, B=B), reference(shares=torch.inf if B < 3 else 0))


def test_a_factor_that_does_not_train_does_not_shrink():
    configs = [options(shrink=0.1)] * K
    trains = torch.tensor([[False, True, True], [True, True, True]])
    free, held = ours(configs, B=0.0), ours(configs, B=0.0, trains=trains)
    plain = ours([options()] * K, B=0.0)
    assert torch.equal(held[0][0][0], plain[0][0][0]) and torch.equal(held[0][0][1:], free[0][0][1:])
    assert not torch.equal(free[0][0][0], plain[0][0][0])


def test_a_frozen_factor_of_one_layer_is_no_matter_of_another():
    """As of eva, which may leave a layer without ranks."""
    layers = {name: LoRA(*(p.clone() for p in start(0.0)), torch.ones(K, dtype=DOUBLE)) for name in ("one", "two")}
    parameters = [p.detach() for layer in layers.values() for p in layer.parameters.values()]
    before, trains = [p.clone() for p in parameters], torch.ones(4, K, dtype=torch.bool)
    trains[0, 1] = False
    Pairs([options(shrink=0.5)] * K, layers, trains, torch.device("cpu")).shrink(parameters)
    shares = [(now / old)[:, 0, 0].tolist() for now, old in zip(parameters, before, strict=True)]
    assert shares[0] == [0.5, 1, 0.5] and shares[2] == [0.5, 0.5, 0.5]


def test_a_run_that_diverges_stays_alone():
    """What is not finite in one run is in no other, to the bit; nothing is raised."""
    X = start()[0].float()
    broken = X.clone()
    broken[1] = torch.inf
    S, T = (gram(x) + torch.eye(R, dtype=DOUBLE) for x in (X, broken))
    assert torch.equal(inverse(S)[[0, 2]], inverse(T)[[0, 2]]) and not inverse(T)[1].isfinite().any()


TOY = "task.width=16 task.teacher_width=16 task.train_points=20 steps=8 optimizer.lr=0.05".split()


@pytest.mark.parametrize("adapter", ["lora", "dora", "vera"])
def test_a_frozen_factor_stays_where_it_is(adapter):
    """In a stack with runs that freeze the other one, or none, and with the numbers that each has alone."""
    own = ["adapter=vera", "init=vera_d0"] if adapter == "vera" else [f"adapter={adapter}", "init=gaussian_AB"]
    freezes = ("A", "B", None) if adapter != "vera" else ("B", None)  # d starts at zero, and is not to be frozen
    configs = [with_values(configure(*TOY, *own), {"adapter.freeze": side}) for side in freezes]
    outcomes = train(configs)

    def frozen(outcome, side):
        steps = outcome.steps
        if adapter == "vera":
            assert outcome.summary["trainable_parameters"] == (64 if side else 64 + 16)
        else:
            assert (steps[f"update/{side}"].dropna() == 0).all() and steps[f"param/{side}"].nunique() == 1
            other = "B" if side == "A" else "A"
            assert (steps[f"update/{other}"].dropna() > 0).all()
            magnitude = 16 * (adapter == "dora")
            assert outcome.summary["trainable_parameters"] == 16 * 4 + magnitude

    for side, outcome in zip(freezes, outcomes, strict=True):
        if side:
            frozen(outcome, side)
            rejects(frozen, outcomes[-1], side)
    alone = [train([config])[0] for config in configs]
    if adapter == "lora":
        same_runs(alone, outcomes)
    else:  # whose products are a library's, and round otherwise beside other runs on some processors
        for a, b in zip(alone, outcomes, strict=True):
            assert a.status == b.status and a.summary["final_loss"] == pytest.approx(b.summary["final_loss"], rel=1e-5)


REFUSED = {
    "adapter.freeze=B: init=gaussian_A puts B at zero": ["init=gaussian_A", "adapter.freeze=B"],
    "adapter.freeze=A: init=gaussian_B puts A at zero": ["init=gaussian_B", "adapter.freeze=A"],
    "adapter.freeze=A: init=mica puts A at zero": ["init=mica", "adapter.freeze=A"],
    "adapter.freeze=d": ["adapter.freeze=d"],
    "optimizer.riemannian=0.01: adapter=vera has no factors A and B": ["adapter=vera", "optimizer.riemannian=0.01"],
    "optimizer.shrink=0.1: adapter=full has no factors A and B": [
        "adapter=full",
        "init=pretrained",
        "optimizer.shrink=0.1",
    ],
    "sharpness.every=2: optimizer.shrink=0.1 changes updates": ["optimizer.shrink=0.1", "sharpness.every=2"],
    "optimizer.shrink=1.0: must be above 0 and below 1": ["optimizer.shrink=1.0"],
    "optimizer.shrink=0.0: must be above 0 and below 1": ["optimizer.shrink=0.0"],
    "optimizer.riemannian=1e-13: must be a number from 1e-12": ["optimizer.riemannian=1e-13"],
    "optimizer.shrink=0.1: adapter.freeze=A keeps A as it is": ["adapter.freeze=A", "optimizer.shrink=0.1"],
    "adapter.freeze=A: init=zero puts A at zero, where it would stay, and then the other factor has no gradient; choose": [
        "init=zero",
        "adapter.freeze=A",
    ],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused(message, cli):
    code, _, err = cli("experiment=mine", *TOY, *REFUSED[message])
    assert code != 0 and message in err and "Traceback" not in err, err


@pytest.mark.parametrize("field", ["adapter.freeze", "optimizer.riemannian", "optimizer.shrink"])
def test_runs_from_before_there_was_a_choice_keep_their_ids(field):
    plain = configure(*TOY, "init=gaussian_AB")
    other = with_values(plain, {field: "A" if "freeze" in field else 0.1})
    group, _, name = field.partition(".")
    assert name not in as_kept(plain)[group] and name in as_kept(other)[group] and run_id(plain) != run_id(other)

"""Stacked optimizers in lockstep with torch.optim, one torch optimizer a run, in float64."""

from types import SimpleNamespace

import pytest
import torch
from conftest import rejects

from runner.training.optimizers.base import build
from runner.training.optimizers.clipping import clip, clipping
from runner.training.optimizers.schedules import learning_rates

STEPS = 25


def adamw(name="adamw", **changes):
    return SimpleNamespace(**{"name": name, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0} | changes)


def sgd(**changes):
    return SimpleNamespace(**{"name": "sgd", "momentum": 0.0, "weight_decay": 0.0} | changes)


CASES = {
    "adamw": [adamw(), adamw(beta1=0.5, beta2=0.9, weight_decay=0.1), adamw(eps=1e-2)],
    "sgd": [sgd(), sgd(momentum=0.9), sgd(momentum=0.5, weight_decay=0.1)],
}
LRS = torch.tensor([1e-2, 3e-3, 5e-2], dtype=torch.float64)


def theirs(config, parameters, lr):
    if config.name == "adamw":
        betas = config.beta1, config.beta2
        return torch.optim.AdamW(parameters, lr, betas, config.eps, config.weight_decay)
    return torch.optim.SGD(parameters, lr, config.momentum, weight_decay=config.weight_decay)


def gradient(p: torch.Tensor, t: int) -> torch.Tensor:
    """A bounded non-linear function of the parameter that changes sign with the step."""
    return torch.sin(3 * p + t) + 0.3 * p


def trajectories(configs, lrs):
    """(ours, torch's) after every step: lists of (K, 4, 3) tensors for two parameters."""
    g = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 4, 3, generator=g, dtype=torch.float64) for _ in range(2)]
    stacked = [p.clone() for p in start]
    optimizer = build(configs, stacked)
    single = [[p[k].clone().requires_grad_() for p in start] for k in range(3)]
    singles = [theirs(configs[k], single[k], LRS[k].item()) for k in range(3)]
    ours, torchs = [], []
    for t in range(STEPS):
        optimizer.step([gradient(p, t) for p in stacked], torch.stack([lrs, lrs]))
        for parameters, other in zip(single, singles, strict=True):
            for p in parameters:
                p.grad = gradient(p.detach(), t)
            other.step()
        ours.append([p.clone() for p in stacked])
        torchs.append([torch.stack([single[k][i].detach() for k in range(3)]) for i in range(2)])
    return ours, torchs


def in_lockstep(ours, torchs):
    for mine, reference in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_lockstep_with_torch(name):
    configs = CASES[name]
    in_lockstep(*trajectories(configs, LRS))
    rejects(in_lockstep, *trajectories(configs, 1.0001 * LRS))
    broken = [SimpleNamespace(**vars(c) | {"weight_decay": c.weight_decay + 0.01}) for c in configs]
    ours, _ = trajectories(broken, LRS)
    rejects(in_lockstep, ours, trajectories(configs, LRS)[1])


def test_signsgd_is_adam_without_memory():
    """β1 = β2 = 0 and ε → 0 turn Adam's step into lr·sign(g)."""

    def end(config, lrs):
        g = torch.Generator().manual_seed(0)
        p = torch.randn(3, 4, 3, generator=g, dtype=torch.float64)
        optimizer = build([config] * 3, [p])
        for t in range(STEPS):
            optimizer.step([gradient(p, t)], lrs[None])
        return p

    sign = SimpleNamespace(name="signsgd", weight_decay=0.02)
    adam = adamw(beta1=0.0, beta2=0.0, eps=1e-300, weight_decay=0.02)

    def check(a, b):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    check(end(sign, LRS), end(adam, LRS))
    rejects(check, end(sign, LRS), end(adam, 1.001 * LRS))


def test_a_zero_gradient_moves_nothing_under_signsgd():
    p = torch.ones(1, 2, 2)
    build([SimpleNamespace(name="signsgd", weight_decay=0.0)], [p]).step([torch.zeros_like(p)], torch.ones(1, 1))
    assert torch.equal(p, torch.ones(1, 2, 2))


def test_schedules_at_hand_computed_points():
    def rates(schedule, warmup=0):
        return learning_rates([SimpleNamespace(lr=2.0, schedule=schedule, warmup=warmup)], 8)[:, 0].tolist()

    assert rates("constant") == [2.0] * 8
    assert rates("linear") == [2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25]
    assert rates("cosine")[0] == 2.0 and rates("cosine")[4] == pytest.approx(1.0)  # half way: (1 + cos π/2) / 2
    assert rates("constant", warmup=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert rates("linear") != rates("cosine") != rates("constant")
    assert rates("linear", warmup=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 1.5, 1.0, 0.5]


def test_runs_of_a_stack_keep_their_own_schedule():
    configs = [
        SimpleNamespace(lr=1.0, schedule="linear", warmup=0),
        SimpleNamespace(lr=3.0, schedule="constant", warmup=2),
    ]
    assert learning_rates(configs, 2).tolist() == [[1.0, 1.5], [0.5, 3.0]]


def test_clipping_is_torchs_run_by_run():
    """Over all parameters of a run; a run that does not clip keeps its bits, and so does one within its bound."""
    chance = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, 4, 5, generator=chance), torch.randn(3, 6, 2, generator=chance)]
    largest = clipping([SimpleNamespace(clip=c) for c in (0.7, None, 1e3)], torch.device("cpu"))
    clipped, _ = clip(gradients, largest)

    def same(largest):
        parameters = [torch.nn.Parameter(g[0].clone()) for g in gradients]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g[0].clone()
        torch.nn.utils.clip_grad_norm_(parameters, largest)
        for p, g in zip(parameters, clipped, strict=True):
            torch.testing.assert_close(g[0], p.grad, rtol=1e-6, atol=0)  # float32

    same(0.7)
    rejects(same, 0.7001)
    for k in (1, 2):
        assert all(torch.equal(a[k], b[k]) for a, b in zip(gradients, clipped, strict=True))
    assert clipping([SimpleNamespace(clip=None)], torch.device("cpu")) is None
    assert largest.tolist() == [0.7, torch.inf, 1e3]  # as they were asked for, whatever precision runs have


def clipped_like_torch(gradients, max_norm, ours):
    """A run of one parameter, in float64."""
    p = torch.nn.Parameter(gradients.clone())
    p.grad = gradients.clone()
    torch.nn.utils.clip_grad_norm_([p], max_norm)
    torch.testing.assert_close(ours, p.grad, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", [1e-7, 9e-7, 1e-6, 2e-6, 1e-5, 1.0])
def test_clipping_near_the_number_that_keeps_it_from_dividing_by_zero(size):
    """‖g‖ + 1e-6: a gradient of the bound's own size is halved at 1e-6."""
    gradients = torch.tensor([[0.6, 0.8]], dtype=torch.float64) * size
    for max_norm in (1e-6, 1.0):
        [ours], _ = clip([gradients], torch.tensor([max_norm], dtype=torch.float64))
        clipped_like_torch(gradients[0], max_norm, ours[0])
    [ours], _ = clip([gradients], torch.tensor([1e-6], dtype=torch.float64))
    if size > 1e-7:  # below, nothing is clipped
        rejects(clipped_like_torch, gradients[0], 1.0001e-6, ours[0])


@pytest.mark.parametrize("broken", [torch.inf, -torch.inf, torch.nan])
def test_clipping_a_gradient_that_is_not_finite_is_torchs_and_no_neighbours(broken):
    gradients = torch.tensor([[3.0, broken], [3.0, broken], [3.0, 4.0]], dtype=torch.float64)
    [ours], _ = clip([gradients], torch.tensor([1.0, torch.inf, 1.0], dtype=torch.float64))
    for k in (0, 2):
        clipped_like_torch(gradients[k], 1.0, ours[k])
    torch.testing.assert_close(ours[1], gradients[1], rtol=0, atol=0, equal_nan=True)  # it does not clip
    rejects(clipped_like_torch, gradients[2], 1.0, gradients[2])


def test_a_gradient_whose_square_is_no_float32_is_clipped():
    """Norms are float64: 1e25² is infinite in float32, and infinity would clip everything to nothing."""
    gradient = torch.full((1, 4), 1e25)

    def check(clipped):
        torch.testing.assert_close(clipped, torch.full((1, 4), 0.5), rtol=1e-6, atol=0)

    check(clip([gradient], torch.tensor([1.0]))[0][0])
    rejects(check, gradient / gradient.norm())


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamw_in_one_pass_has_the_bits_of_its_operations(dtype, decay, monkeypatch):
    """Of a GPU's operations, on the CPU; where a run has diverged, too, and of an odd number of entries."""
    chance = torch.Generator().manual_seed(0)
    shapes = (3, 5, 7), (3, 11), (3, 130, 130)  # the last is more than a block
    starts = [torch.randn(*shape, generator=chance, dtype=dtype) for shape in shapes]
    gradients = [
        [torch.randn(p.shape, generator=chance, dtype=dtype) * 10 ** (3 * k) for p in starts] for k in range(-4, 4)
    ]
    gradients[5][0][1] = torch.tensor([torch.inf, torch.nan, 0, 1, -torch.inf, 1e30, 1e-40], dtype=dtype)

    def end(rate):
        parameters = [p.clone() for p in starts]
        optimizer = build([adamw(weight_decay=decay)] * 3, parameters)
        for t, each in enumerate(gradients):
            optimizer.step(
                each,
                rate
                * torch.tensor([[1.0, 0.1, 1e-3], [2.0, 0.3, 1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
                / (t + 1),
            )
        return [*parameters, *optimizer.m, *optimizer.v]

    def same(ours, theirs):
        assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(ours, theirs, strict=True))

    ours = end(1)
    monkeypatch.setattr("runner.training.optimizers.adamw.has_kernel", lambda parameters: False)
    same(ours, end(1))
    assert ours[0][1].isnan().any() and ours[0][0].isfinite().all()
    rejects(same, ours, end(1 + 1e-6))

"""Stacked adapters against explicit weights and against PEFT, run by run, in float64."""

import math

import peft
import pytest
import torch
from conftest import rejects
from torch.autograd.gradcheck import GradcheckError, gradcheck

from runner.adapters import Adapter, DoRA, Full, LoRA, VeRA
from runner.adapters.dora import WeightRows
from runner.adapters.products import AddFolded, AddProduct, GainFolded, GainProduct
from runner.adapters.vera import projections
from runner.config.registry import ADAPTERS

RUNS, RANK, N_IN, N_OUT, POINTS = 3, 4, 10, 7, 6
ALPHAS = [4.0, 1.0, 16.0]
KEYS = [0, 1, 5]  # of VeRA's frozen pairs, which are drawn for a larger layer
LARGEST = (N_OUT + 2, N_IN + 3)
KINDS = ("lora", "rslora", "dora", "vera")  # that PEFT has, too


def draw(*shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]


@pytest.fixture
def problem():
    """W0 with a bias, inputs that runs share, and inputs of each run's own, folded into the batch."""
    W0, bias, x, own = draw((N_OUT, N_IN), (N_OUT,), (POINTS, N_IN), (RUNS * POINTS, N_IN))
    return W0, bias, x, own


def build(kind: str, W0, norm_gradient: bool = False, offset: bool = False) -> Adapter:
    """Three runs with nothing at zero, and DoRA's magnitudes away from the lengths of rows."""
    A, B, d, b, m = draw((RUNS, RANK, N_IN), (RUNS, N_OUT, RANK), (RUNS, RANK), (RUNS, N_OUT), (RUNS, N_OUT), seed=1)
    if kind == "vera":
        pairs = [projections(key, RANK, *LARGEST) for key in KEYS]
        pair = tuple(torch.stack([pair[side] for pair in pairs]).double() for side in (0, 1))
        return VeRA(d, b, pair, N_IN)
    if kind == "full":
        return Full(*draw((RUNS, N_OUT, N_IN), seed=1), W0=W0)
    scale = torch.tensor([ADAPTERS[kind].scale_at(alpha, RANK) for alpha in ALPHAS], dtype=torch.float64)
    frozen = tuple(draw((RUNS, RANK, N_IN), (RUNS, N_OUT, RANK), seed=2)) if offset else None
    if kind != "dora":
        return LoRA(A, B, scale, frozen)
    adapter = DoRA(A, B, scale, frozen, W0, norm_gradient)
    with torch.no_grad():
        adapter.m += 0.3 * m
    return adapter


def explicit(adapter: Adapter, W0, k: int):
    """The weight of run k, from the parameters, differentiable."""
    parameters = [p[k] for p in adapter.parameters.values()]
    if isinstance(adapter, VeRA):
        d, b = parameters
        return W0 + torch.diag(b) @ adapter.B[k] @ torch.diag(d) @ adapter.A[k]
    if isinstance(adapter, Full):
        return parameters[0]
    A, B, *m = parameters
    V = W0 + adapter.scale[k] * B @ A
    if adapter.offset is not None:
        V = V - adapter.scale[k] * adapter.offset[1][k] @ adapter.offset[0][k]
    if not m:
        return V
    norms = V.norm(dim=1) if adapter.norm_gradient else V.norm(dim=1).detach()
    return (m[0] / norms)[:, None] * V


def close(a, b):
    """1e-10 of the largest entry: sums of a few dozen float64 terms in another order."""
    assert a.shape == b.shape and (a - b).abs().max() <= 1e-10 * b.abs().max()


VARIANTS = [(kind, False, False) for kind in (*KINDS, "full")] + [
    ("dora", True, False),
    ("lora", False, True),
    ("dora", True, True),
]


@pytest.mark.parametrize(("kind", "norm_gradient", "offset"), VARIANTS, ids=str)
@pytest.mark.parametrize("folded", [False, True])
def test_outputs_and_gradients_are_those_of_the_explicit_weight(problem, kind, norm_gradient, offset, folded):
    W0, bias, x, own = problem
    adapter = build(kind, W0, norm_gradient, offset)
    y0 = (own if folded else x) @ W0.T + bias
    added = bias if folded else bias.expand(POINTS, N_OUT)
    y = adapter.folded(own, y0, added).view(RUNS, POINTS, N_OUT) if folded else adapter(x, y0, added)
    losses = (y - 1).pow(3).mean((1, 2))
    gradients = torch.autograd.grad(losses.sum(), list(adapter.parameters.values()))
    for k in range(RUNS):
        inputs = own.view(RUNS, POINTS, N_IN)[k] if folded else x
        expected = inputs @ explicit(adapter, W0, k).T + bias
        close(y[k], expected)
        theirs = torch.autograd.grad((expected - 1).pow(3).mean(), list(adapter.parameters.values()))
        for ours, other in zip(gradients, theirs, strict=True):
            close(ours[k], other[k])
            rejects(close, ours[k], other[k] * (1 + 1e-8))
            rejects(close, ours[k], other[k - 1] if other[k - 1].any() else 2 * other[k])


def test_the_full_gradient_of_dora_is_another(problem):
    """The detached norm is a choice that shows: in A and B, and not in m."""
    W0, _, x, _ = problem

    def gradients(norm_gradient):
        adapter = build("dora", W0, norm_gradient)
        losses = (adapter(x, x @ W0.T) - 1).pow(3).mean((1, 2))
        return torch.autograd.grad(losses.sum(), list(adapter.parameters.values()))

    for name, paper, full in zip("ABm", gradients(False), gradients(True), strict=True):
        close(paper, full) if name == "m" else rejects(close, paper, full)


FOLDED = (RUNS * POINTS, N_OUT), (RUNS * POINTS, N_IN), (RUNS, RANK, N_IN), (RUNS, N_OUT, RANK)
PRODUCTS = {
    AddProduct: ((POINTS, N_OUT), (RUNS, POINTS, RANK), (RUNS, N_OUT, RANK)),
    AddFolded: FOLDED,
    GainProduct: ((POINTS, N_OUT), (POINTS, N_OUT), (RUNS, POINTS, RANK), (RUNS, N_OUT, RANK), (RUNS, N_OUT)),
    GainFolded: (*FOLDED, (RUNS, N_OUT), (N_OUT,)),
}


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: p.__name__)
def test_the_gradients_written_by_hand_are_those_of_finite_differences(product):
    """Multilinear functions: central differences err by rounding alone."""
    inputs = draw(*PRODUCTS[product], seed=3)
    constants = {GainProduct: (0, 1), GainFolded: (5,)}.get(product, ())  # u, and what is added, are a task's
    for i, t in enumerate(inputs):
        t.requires_grad_(i not in constants)

    def call(kind):
        return lambda y0, *rest: kind.apply(y0.clone(), *rest)  # AddFolded writes into it

    assert gradcheck(call(product), inputs, rtol=1e-6)

    class Wrong(product):
        @staticmethod
        def backward(ctx, grad):
            return product.backward(ctx, (1 + 1e-5) * grad)

    with pytest.raises(GradcheckError):
        gradcheck(call(Wrong), inputs, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_pefts(problem, kind):
    W0, bias, x, _ = problem
    adapter = build(kind, W0)
    y = adapter(x, x @ W0.T + bias, bias.expand(POINTS, N_OUT))
    losses = (y - 1).pow(3).mean((1, 2))
    gradients = torch.autograd.grad(losses.sum(), list(adapter.parameters.values()))
    for k in range(RUNS):
        layers = {"0": torch.nn.Linear(N_IN, N_OUT, dtype=torch.float64)}
        targets = ["0"]
        if kind == "vera":  # a larger layer, which the pair is drawn for
            layers["1"], targets = torch.nn.Linear(LARGEST[1], LARGEST[0], dtype=torch.float64), ["0", "1"]
            config = peft.VeraConfig(r=RANK, target_modules=targets, projection_prng_key=KEYS[k])
        else:
            switches = {"use_rslora": kind == "rslora", "use_dora": kind == "dora"}
            config = peft.LoraConfig(r=RANK, lora_alpha=ALPHAS[k], target_modules=targets, **switches)
        model = peft.get_peft_model(torch.nn.ModuleDict(layers), config, autocast_adapter_dtype=False)
        layer = model.base_model.model["0"]
        if kind == "vera":
            assert torch.equal(layer.vera_A["default"][:, :N_IN].double(), adapter.A[k])  # the same draws, to the bit
            assert torch.equal(layer.vera_B["default"][:N_OUT].double(), adapter.B[k])
            layer.vera_A["default"], layer.vera_B["default"] = (
                layer.vera_A["default"].double(),
                layer.vera_B["default"].double(),
            )
            theirs = [layer.vera_lambda_d["default"], layer.vera_lambda_b["default"]]
        else:
            theirs = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
            theirs += [layer.lora_magnitude_vector["default"].weight] if kind == "dora" else []
        with torch.no_grad():
            layer.base_layer.weight.copy_(W0)
            layer.base_layer.bias.copy_(bias)
            for p, ours in zip(theirs, adapter.parameters.values(), strict=True):
                p.data = ours[k].clone()
        output = layer(x)
        close(y[k], output)
        for ours, p in zip(gradients, torch.autograd.grad((output - 1).pow(3).mean(), theirs), strict=True):
            close(ours[k], p)
            rejects(close, ours[k], 1.001 * p)


def test_lengths_of_rows_come_from_the_factors():
    W0, inner, outer = draw((N_OUT, N_IN), (RUNS, RANK, N_IN), (RUNS, N_OUT, RANK))
    norms = WeightRows(W0, torch.float64).norms(inner, outer)
    close(norms, (W0 + outer @ inner).norm(dim=2))
    rejects(close, norms, (W0 + 1.001 * outer @ inner).norm(dim=2))


def test_dora_starts_where_lora_does(problem):
    """m = ‖V‖ whatever the factors: the same outputs, and gradients of A and B that are LoRA's."""
    W0, bias, x, _ = problem
    lora = build("lora", W0)
    dora = DoRA(lora.A.detach().clone(), lora.B.detach().clone(), lora.scale, None, W0, norm_gradient=False)
    y, same = (a(x, x @ W0.T + bias, bias.expand(POINTS, N_OUT)) for a in (dora, lora))
    close(y, same)
    gradients = [torch.autograd.grad(out.pow(2).sum(), [a.A, a.B]) for out, a in ((y, dora), (same, lora))]
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs)
    with torch.no_grad():
        dora.m *= 1.01
    rejects(close, dora(x, x @ W0.T), same)


def test_scales_are_those_of_the_papers():
    scales = {name: ADAPTERS[name].scale_at(8.0, 4) for name in ("lora", "dora", "rslora")}
    assert scales == {"lora": 2.0, "dora": 2.0, "rslora": 4.0}
    assert all(ADAPTERS[name].alpha_at(scale, 4) == 8.0 for name, scale in scales.items())


def test_projections_have_the_variances_of_kaiming():
    """2/n_in and 2/r, uniform: within 5 standard errors of N draws (√(0.8/N) for a uniform's variance)."""

    def check(x, variance):
        assert abs(x.double().var() / variance - 1) < 5 * math.sqrt(0.8 / x.numel())
        assert x.abs().max() <= math.sqrt(3 * variance)

    A, B = projections(0, 256, 300, 400)
    check(A, 2 / 400)
    check(B, 2 / 256)
    rejects(check, A, 2 / 256)


@pytest.mark.parametrize("kind", [*KINDS, "full"])
def test_gradients_of_a_run_do_not_depend_on_its_neighbours(problem, kind):
    W0, _, x, _ = problem
    adapters = [build(kind, W0), build(kind, W0)]
    with torch.no_grad():
        next(iter(adapters[1].parameters.values()))[1] = torch.nan
    clean, broken = (
        torch.autograd.grad(a(x, x @ W0.T).square().mean((1, 2)).sum(), list(a.parameters.values())) for a in adapters
    )
    for ours, other in zip(clean, broken, strict=True):
        assert torch.equal(ours[[0, 2]], other[[0, 2]])
        assert other[1].isnan().any()

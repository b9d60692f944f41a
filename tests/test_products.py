"""The products of a step where they take their other paths: sums in several parts, and a base of lower precision."""

import pytest
import torch
from conftest import rejects
from test_adapters import close

from runner.adapters import DoRA, Full, LoRA, VeRA, products
from runner.adapters.products import AddFolded, AddProduct, GainFolded, GainProduct, _columns

DOUBLE = torch.float64
SIZES = {"small": (3, 6, 5, 7, 4), "real": (2, 300, 40, 512, 4)}  # runs, points, n_in, n_out, q


def draw(*shapes, dtype=DOUBLE):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=g, dtype=torch.float32).to(dtype) for shape in shapes]


@pytest.fixture(params=[0, 1, 4, 5, None], ids="{} points at once".format)
def parts(request, monkeypatch):
    """Sizes of a problem whose sums are taken in several parts, the last of which is ragged or not; 0: a point has more
    numbers than a part; None: as it is in use."""
    if request.param is None:
        runs, points, _, n_out, _ = SIZES["real"]
        assert products.AT_ONCE // (runs * n_out) == 128 and points % 128  # two whole parts, and a ragged one
        return SIZES["real"]
    runs, _, _, n_out, _ = SIZES["small"]
    monkeypatch.setattr(products, "AT_ONCE", request.param * runs * n_out)
    return SIZES["small"]


def first_part_only(a, b):
    at_once = max(1, products.AT_ONCE // (a.shape[0] * a.shape[2]))
    return (a * b)[:, :at_once].sum(1)


def test_sums_over_points_are_whole_however_they_are_parted(parts):
    runs, points, _, n_out, _ = parts
    for shape in ((points, n_out), (runs, points, n_out)):
        a, b = draw((runs, points, n_out), shape)
        close(_columns(a, b), (a * b).sum(1))
        rejects(close, first_part_only(a, b), (a * b).sum(1))


def unfolded(t, runs):
    return t.view(runs, -1, t.shape[1])


# What each product is, in operations whose gradients autograd knows.
PLAIN = {
    AddProduct: lambda y0, Z, outer: y0 + Z @ outer.mT,
    GainProduct: lambda y0, u, Z, outer, gain: y0 + (gain[:, None] - 1) * u + gain[:, None] * (Z @ outer.mT),
    AddFolded: lambda y0, x, inner, outer: y0 + (unfolded(x, len(inner)) @ inner.mT @ outer.mT).view(y0.shape),
    GainFolded: lambda y0, x, inner, outer, gain, added: (
        added + gain[:, None] * (unfolded(y0, len(gain)) - added + unfolded(x, len(gain)) @ inner.mT @ outer.mT)
    ).view(y0.shape),
}


def inputs(product, runs, points, n_in, n_out, q):
    if product in (AddProduct, GainProduct):
        y0, u, Z, outer, gain = draw(
            (points, n_out), (points, n_out), (runs, points, q), (runs, n_out, q), (runs, n_out)
        )
        return [y0, Z, outer] if product is AddProduct else [y0, u, Z, outer, gain]
    shapes = (runs * points, n_out), (runs * points, n_in), (runs, q, n_in), (runs, n_out, q), (runs, n_out), (n_out,)
    return draw(*shapes)[: 4 if product is AddFolded else 6]


def gradients(function, tensors, trained):
    """Of a cubic loss, and the outputs."""
    tensors = [t.clone().requires_grad_(i in trained) for i, t in enumerate(tensors)]
    y = function(tensors[0].clone(), *tensors[1:])
    return y, torch.autograd.grad((y - 1).pow(3).mean(), [tensors[i] for i in trained])


TRAINED = {AddProduct: (0, 1, 2), GainProduct: (2, 3, 4), AddFolded: (0, 1, 2, 3), GainFolded: (0, 1, 2, 3, 4)}


@pytest.mark.parametrize("product", PLAIN, ids=lambda p: p.__name__)
def test_outputs_and_gradients_are_autograds_at_every_size(product, parts, monkeypatch):
    tensors, trained = inputs(product, *parts), TRAINED[product]
    expected_y, expected = gradients(PLAIN[product], tensors, trained)
    y, ours = gradients(product.apply, tensors, trained)
    close(y, expected_y)
    for a, b in zip(ours, expected, strict=True):
        close(a, b)
        rejects(close, a, b * (1 + 1e-8))
    if product in (GainProduct, GainFolded):
        monkeypatch.setattr(products, "_columns", first_part_only)
        rejects(close, gradients(product.apply, tensors, trained)[1][-1], expected[-1])


@pytest.mark.parametrize("kind", ["lora", "dora", "vera"])
def test_a_layer_of_real_size_has_the_gradients_of_its_explicit_weight(kind):
    runs, points, n_in, n_out, q = SIZES["real"]
    A, B, W0, x, d, b, nudge = draw(
        (runs, q, n_in), (runs, n_out, q), (n_out, n_in), (runs * points, n_in), (runs, q), (runs, n_out), (runs, n_out)
    )
    scale = torch.tensor([1.0, 3.0], dtype=DOUBLE)
    if kind == "dora":
        adapter = DoRA(A, B, scale, None, W0, norm_gradient=False)
        adapter.m = (adapter.m + nudge / 5).detach().requires_grad_()
    else:
        adapter = LoRA(A, B, scale) if kind == "lora" else VeRA(d, b, (A, B), n_in)
    parameters = list(adapter.parameters.values())
    for folded in (True, False):
        shared = x if folded else x[:points]
        y0 = shared @ W0.T
        y = adapter.folded(shared, y0) if folded else adapter(shared, y0)
        ours = torch.autograd.grad((y - 1).pow(3).sum(), parameters)
        inner, outer = adapter.factors(parameters)
        V = W0 + outer @ inner
        if kind == "dora":
            V = (parameters[2] / V.norm(dim=2).detach())[:, :, None] * V
        plain = (x.view(runs, points, n_in) if folded else shared) @ V.mT
        for a, expected in zip(ours, torch.autograd.grad((plain - 1).pow(3).sum(), parameters), strict=True):
            close(a, expected)
            rejects(close, a, expected * (1 + 1e-8))


# A base of lower precision ------------------------------------------------------------------------

UNIT = 2**-8  # bfloat16 has 8 bits: half the distance from 1 to the next number


def rounded_once(ours, exact, unit):
    """Computed in float32, of which a sum of 40 terms leaves 40·2⁻²⁴ of their sizes, and rounded to the base's numbers once."""
    assert ((ours.double() - exact).abs() <= unit * exact.abs() + 1e-5 * exact.abs().max()).all()


@pytest.mark.parametrize("product", [AddFolded, GainFolded], ids=lambda p: p.__name__)
def test_a_base_of_lower_precision_rounds_its_outputs_and_gradients_once(product):
    """And nothing else does: the factors' gradients are float32's. Inputs and the gradient that comes back are exact numbers of
    the base; 0.9 times the adapter's part, or two roundings, are further away."""
    dtype = torch.bfloat16
    y0, x, *factors = inputs(product, *SIZES["small"])
    y0, x, g = (t.to(dtype) for t in (y0, x, draw(y0.shape)[0].flip(0)))
    factors = [t.float() for t in factors]
    if product is GainFolded:
        factors[-1] = factors[-1].to(dtype).float()

    def run(function, dtypes):
        tensors = [t.detach().to(kind) for t, kind in zip((y0, x, *factors), dtypes, strict=True)]
        trained = [t.requires_grad_() for t in tensors[:5]]
        y = function(tensors[0].clone(), *tensors[1:])
        return y, torch.autograd.grad(y, trained, g.to(y.dtype))

    y, (grad_y0, grad_x, *ours) = run(product.apply, [dtype, dtype, *(torch.float32 for _ in factors)])
    exact, (exact_y0, exact_x, *expected) = run(PLAIN[product], [DOUBLE] * (2 + len(factors)))
    assert y.dtype == grad_y0.dtype == grad_x.dtype == dtype
    for a, b in ((y, exact), (grad_y0, exact_y0), (grad_x, exact_x)):
        rounded_once(a, b, UNIT)
    part = exact - y0.double()
    rejects(rounded_once, (y0.double() + 0.9 * part).to(dtype), exact, UNIT)
    rejects(rounded_once, 1.02 * grad_x.double(), exact_x, UNIT)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == torch.float32
        rounded_once(a, b, 0)
        rejects(rounded_once, a.to(dtype), b, 0)


def test_a_head_on_a_base_of_lower_precision_rounds_once():
    (runs, points, n_in, n_out, _), dtype = SIZES["small"], torch.bfloat16
    W, b, x = draw((runs, n_out, n_in), (runs, n_out), (runs * points, n_in))
    x, y0 = x.to(dtype), torch.zeros(runs * points, n_out, dtype=dtype)
    exact = (unfolded(x.double(), runs) @ W.mT + b[:, None]).view(y0.shape)
    y = Full(W.float(), b.float()).folded(x, y0)
    assert y.dtype == dtype
    rounded_once(y, exact, UNIT)
    rejects(rounded_once, Full(W.to(dtype), b.to(dtype)).folded(x, y0), exact, UNIT)
    rejects(rounded_once, Full(W.float(), None).folded(x, y0), exact, UNIT)

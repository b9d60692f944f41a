"""Every metric against its definition. Float64 throughout; 1e-9 leaves room for condition numbers of about 1e6."""

import numpy as np
import pytest
import reference
import torch
from conftest import rejects

from runner.adapters import DoRA, LoRA, VeRA
from runner.tasks.base import Probe
from runner.training.measure import compiled
from runner.training.measure.compiled import LANES, TILE, _largest_eigenvalue
from runner.training.measure.frozen import FROZEN
from runner.training.measure.layer import CHANGES
from runner.training.measure.layers import Meters
from runner.training.measure.metrics import METRICS, Update

RUNS, RANK, N_IN, N_OUT, PROBE = 3, 4, 24, 17, 11


@pytest.fixture
def tensors():
    return draw_tensors()


def draw_tensors():
    g = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    A, B = draw(RUNS, RANK, N_IN), draw(RUNS, N_OUT, RANK)
    dA, dB = 0.1 * draw(RUNS, RANK, N_IN), 0.1 * draw(RUNS, N_OUT, RANK)
    return A, B, dA, dB, torch.tensor([1.0, 0.25, 3.0], dtype=torch.float64), draw(PROBE, N_IN), draw(N_OUT, N_IN)


def test_compiled_columns_are_columns():
    assert set(compiled.COLUMNS) <= set(METRICS)


def agree(fast, slow):
    assert fast.keys() == slow[0].keys()
    for name, values in fast.items():
        expected = torch.tensor([run[name] for run in slow], dtype=torch.float64)
        torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def by_functions(A, B, dA, dB, s, Z, W0, gradients):
    """Every column by the functions that define it."""
    update = Update(*(t.double() for t in (A, B, *gradients, dA, dB, s, Z[None])))
    of_base = {name: measure(Probe(Z, Z @ W0.T)).expand(len(A)) for name, measure in FROZEN.items()}
    return {name: metric.measure(update) for name, metric in METRICS.items()} | of_base


def by_kernels(A, B, dA, dB, s, Z, W0, gradients):
    """Every column as a run on the CPU gets it."""
    return measured(LoRA(A, B, s), Z, W0, None, (A, B), gradients, (A + dA, B + dB))


def measured(adapter, Z, W0, followed, *around):
    """Column -> (K,) of a layer, as a run on the CPU gets it; `around`: parameters before, gradients, after."""
    meters = Meters([(adapter, Probe(Z, Z @ W0.T), followed)])
    meters.out.fill_(torch.nan)
    return dict(zip(meters.columns, meters.measure(*around)[0], strict=True))


@pytest.mark.parametrize("measure", [by_functions, by_kernels])
def test_every_column_agrees_with_its_definition(tensors, measure):
    A, B, dA, dB, s, Z, W0 = tensors
    gradients = (A.flip(0), 3 * B)
    slow = [
        reference.columns(A[k], B[k], dA[k], dB[k], s[k].item(), Z, W0, tuple(g[k] for g in gradients))
        for k in range(RUNS)
    ]
    measured = measure(A, B, dA, dB, s, Z, W0, gradients)
    agree(measured, slow)
    for name in measured:
        rejects(agree, measured | {name: 1.001 * measured[name]}, slow)
    rejects(agree, measure(A.flip(0), B, dA, dB, s, Z, W0, gradients), slow)
    rejects(agree, measure(A + dA, B + dB, dA, dB, s, Z, W0, gradients), slow)  # the factors after the update
    rejects(
        agree, measure(A, B, dA, dB, s, Z, (W0 + s[0] * B[0] @ A[0]).detach(), gradients), slow
    )  # an adapted weight


# rank, n_in, n_out, probe points: around and across the borders of blocks (4), lanes and tiles, tall, flat and tiny
SHAPES = [
    (1, 1, 1, 1),
    (2, TILE, TILE, LANES),
    (3, TILE + 1, 5, LANES + 1),
    (5, 7, TILE + 1, 3),
    (4, 2 * TILE, TILE - 1, 130),
    (16, TILE - 1, 3 * TILE + 2, 9),
    (7, 40, 40, LANES - 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_agree_with_the_functions_on_every_shape(shape):
    rank, n_in, n_out, points = shape
    g = torch.Generator().manual_seed(rank)
    A, dA, B, dB, Z, W0 = (
        torch.randn(*size, generator=g, dtype=torch.float64)
        for size in (
            (5, rank, n_in),
            (5, rank, n_in),
            (5, n_out, rank),
            (5, n_out, rank),
            (points, n_in),
            (n_out, n_in),
        )
    )
    arguments = (A, B, dA, dB, torch.linspace(0.5, 2, 5, dtype=torch.float64), Z, W0, (dA, dB))
    slow = [{name: v[k].item() for name, v in by_functions(*arguments).items()} for k in range(5)]
    agree(by_kernels(*arguments), slow)
    rejects(agree, by_kernels(A, B, dA, dB, arguments[4], Z.flip(1) + 1, W0, (dA, dB)), slow)


def test_the_three_increments_add_up_to_the_change_of_Z_B(tensors):
    """δ1 + δ2 + δ3 = ΔZ_B as vectors; their sizes need not add up, so the sum is formed explicitly."""
    A, B, dA, dB, s, Z, W0 = tensors

    def check(parts):
        change = s[:, None, None] * (Z @ (A + dA).mT @ (B + dB).mT - Z @ A.mT @ B.mT)
        torch.testing.assert_close(sum(parts), change, rtol=1e-11, atol=1e-11)
        sizes = torch.tensor([reference.size(run) for run in sum(parts)], dtype=torch.float64)
        torch.testing.assert_close(by_functions(A, B, dA, dB, s, Z, W0, (A, B))["feature/dZ_B"], sizes)

    parts = [s[:, None, None] * p for p in (Z @ dA.mT @ B.mT, Z @ A.mT @ dB.mT, Z @ dA.mT @ dB.mT)]
    check(parts)
    rejects(check, parts[:2])


def test_small_increments_survive_the_gram_route():
    """Squaring loses digits: at updates 1e-7 of the factors the float64 Gram route still gives 6 of them."""
    g = torch.Generator().manual_seed(1)
    A, B, dA, dB = (
        torch.randn(1, *shape, generator=g, dtype=torch.float64) for shape in ((2, 9), (9, 2), (2, 9), (9, 2))
    )
    dA, dB, Z = 1e-7 * dA, 1e-7 * dB, torch.randn(5, 9, generator=g, dtype=torch.float64)
    fast = by_functions(A, B, dA, dB, torch.ones(1), Z, Z[:2], (A, B))
    slow = reference.columns(A[0], B[0], dA[0], dB[0], 1.0, Z, Z[:2], (A[0], B[0]))
    slow = {name: slow[name] for name in METRICS if METRICS[name].increment}

    def check(factor):
        for name in slow:
            assert factor * fast[name].item() == pytest.approx(slow[name], rel=1e-6), name

    check(1.0)
    rejects(check, 1.00001)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("measure", [by_functions, by_kernels])
def test_non_finite_factors_tell_for_their_run_only(tensors, measure, broken):
    A, B, dA, dB, s, Z, W0 = tensors
    bad = A.clone()
    bad[1, 0, 0] = broken
    clean, measured = (measure(a, B, dA, dB, s, Z, W0, (A, B)) for a in (A, bad))
    of_A = {"param/A", "feature/Z_A", "feature/Z_B", "weight/fro", "weight/spectral", "weight/stable_rank", "balance"}
    for name, values in measured.items():
        assert torch.equal(values[[0, 2]], clean[name][[0, 2]]), name
        assert not (name in of_A and values[1].isfinite()), name


def test_zero_product_has_zero_norms_and_no_stable_rank():
    A, B = torch.ones(1, 2, 5), torch.zeros(1, 5, 2)
    measured = by_functions(A, B, A, B, torch.ones(1), torch.ones(3, 5), torch.eye(5), (A, B))
    assert measured["weight/fro"] == 0 and measured["weight/spectral"] == 0 and measured["weight/stable_rank"].isnan()


def test_vera_is_measured_by_its_factors_and_norms_of_what_trains():
    """Z_A = d∘(A·Z), Z_B = b∘(B·Z_A): the definitions at the factors diag(d)·A and diag(b)·B; norms are those of d and b."""
    g = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    pair = draw(RUNS, RANK, N_IN + 2), draw(RUNS, N_OUT + 1, RANK)
    d, b, dd, db, Z = draw(RUNS, RANK), draw(RUNS, N_OUT), draw(RUNS, RANK), draw(RUNS, N_OUT), draw(PROBE, N_IN)
    W0 = draw(N_OUT, N_IN)
    found = measured(VeRA(d, b, pair, N_IN), Z, W0, None, (d, b), (dd, db), (d + dd, b + db))
    vectors = {"grad/d": dd, "grad/b": db, "param/d": d, "param/b": b, "update/d": dd, "update/b": db}
    slow = []
    for k in range(RUNS):
        (A, B), (new_A, new_B) = (
            (torch.diag(x) @ pair[0][k, :, :N_IN], torch.diag(y) @ pair[1][k, :N_OUT])
            for x, y in ((d[k], b[k]), (d[k] + dd[k], b[k] + db[k]))
        )
        of_factors = reference.columns(A, B, new_A - A, new_B - B, 1.0, Z, W0, (A, B))
        features = {name: value for name, value in of_factors.items() if name.startswith(("feature", "weight"))}
        norms = {name: p[k].norm().item() for name, p in vectors.items()}
        slow.append(features | norms | {"balance": abs(b[k].square().sum() - d[k].square().sum()).item()})
    slow = [{name: run[name] for name in found} for run in slow]
    agree(found, slow)
    for name in found:
        rejects(agree, found | {name: 1.001 * found[name]}, slow)


def explicit_changes(W0, V, magnitude):
    """Mean over rows of | |m| - ‖w‖ | and of 1 - cos(v, w)."""
    cosine = torch.nn.functional.cosine_similarity(V, W0, dim=1)
    return (magnitude - W0.norm(dim=1)).abs().mean().item(), (1 - cosine).mean().item()


@pytest.mark.parametrize("size", [1.0, 1e-5])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_changes_of_lengths_and_directions_are_those_of_the_explicit_weight(tensors, kind, size):
    """Also where cosines have lost their digits: at size 1e-5, 1 - cos is 1e-10, which float64 cosines give to 1e-6."""
    A, B, dA, _, s, Z, _ = tensors
    W0, B = dA[0].mT @ dA[1] + torch.eye(N_IN, dtype=torch.float64), size * torch.cat([B, B], 1)[:, :N_IN]
    adapter = DoRA(A, B, s, None, W0, norm_gradient=False) if kind == "dora" else LoRA(A, B, s)
    if kind == "dora":
        adapter.m = (adapter.m * 1.5).detach()
    parameters = [p.detach() for p in adapter.parameters.values()]
    found = measured(adapter, Z, W0, None if kind == "dora" else W0, parameters, parameters, parameters)
    slow = []
    for k in range(RUNS):
        V = W0 + s[k] * B[k] @ A[k]
        magnitude, direction = explicit_changes(W0, V, adapter.m[k] if kind == "dora" else V.norm(dim=1))
        slow.append({"change/magnitude": magnitude, "change/direction": direction})

    def check(found):
        for name in CHANGES:
            expected = torch.tensor([run[name] for run in slow], dtype=torch.float64)
            torch.testing.assert_close(found[name], expected, rtol=1e-9 if size == 1 else 2e-5, atol=0)

    check(found)
    rejects(check, {name: 1.001 * found[name] for name in CHANGES})
    assert (kind == "dora") == ("grad/m" in found)
    if kind == "dora":
        torch.testing.assert_close(found["param/m"], parameters[2].norm(dim=1))
        assert not found["update/m"].any()


@pytest.mark.parametrize("kind", ["random", "diagonal", "rank one", "zero", "equal", "near"])
@pytest.mark.parametrize("r", [1, 2, 3, 4, 7, 16, 64])
def test_the_largest_eigenvalue_is_lapacks(kind, r):
    """To 1e-14 of itself, also where eigenvalues coincide or are a millionth apart."""
    g = np.random.default_rng(r)
    X = g.standard_normal((r, r))
    Q, _ = np.linalg.qr(X)
    S = {
        "random": X @ X.T,
        "diagonal": np.diag(g.random(r)),
        "rank one": np.outer(X[0], X[0]),
        "zero": np.zeros((r, r)),
        "equal": 3 * np.eye(r),
        "near": Q @ np.diag(1 - 1e-6 * np.arange(r)) @ Q.T,
    }[kind]

    def check(found):
        assert found == pytest.approx(np.linalg.eigvalsh(S)[-1], rel=1e-14 * max(r, 4), abs=1e-300)

    check(_largest_eigenvalue(S.copy()))
    if kind != "zero":
        rejects(check, (1 + 1e-11) * _largest_eigenvalue(S.copy()))

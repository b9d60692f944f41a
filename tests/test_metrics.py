"""Every metric against its definition. Float64 throughout; 1e-9 leaves room for condition numbers of about 1e6."""

import pytest
import reference
import torch
from conftest import rejects

from runner import metrics

RUNS, RANK, N_IN, N_OUT, PROBE = 3, 4, 24, 17, 11


@pytest.fixture
def tensors():
    g = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    A, B = draw(RUNS, RANK, N_IN), draw(RUNS, N_OUT, RANK)
    dA, dB = 0.1 * draw(RUNS, RANK, N_IN), 0.1 * draw(RUNS, N_OUT, RANK)
    return A, B, dA, dB, torch.tensor([1.0, 0.25, 3.0], dtype=torch.float64), draw(PROBE, N_IN)


def agree(fast, slow):
    assert fast.keys() == slow[0].keys()
    for name, values in fast.items():
        expected = torch.tensor([run[name] for run in slow], dtype=torch.float64)
        torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_state_agrees_with_its_definition(tensors):
    A, B, _, _, s, Z = tensors
    slow = [reference.state(A[k], B[k], s[k].item(), Z) for k in range(RUNS)]
    agree(metrics.state(A, B, s, Z), slow)
    rejects(agree, metrics.state(A, B, 1.001 * s, Z), slow)
    rejects(agree, metrics.state(A.flip(0), B, s, Z), slow)


def test_increments_agree_with_their_definition(tensors):
    A, B, dA, dB, s, Z = tensors
    slow = [reference.increments(A[k], B[k], dA[k], dB[k], s[k].item(), Z) for k in range(RUNS)]
    agree(metrics.increments(A, B, dA, dB, s, Z), slow)
    rejects(agree, metrics.increments(A + dA, B + dB, dA, dB, s, Z), slow)  # the factors after the update


def test_gradient_norms_are_frobenius_norms(tensors):
    A, B, *_ = tensors

    def check(measured):
        slow = [
            {"grad/A": A[k].square().sum().sqrt().item(), "grad/B": B[k].square().sum().sqrt().item()}
            for k in range(RUNS)
        ]
        agree(measured, slow)

    check(metrics.gradient_norms(A, B))
    rejects(check, metrics.gradient_norms(A, 1.1 * B))


def test_the_three_increments_add_up_to_the_change_of_Z_B(tensors):
    """δ1 + δ2 + δ3 = ΔZ_B as vectors; their sizes need not add up, so the sum is formed explicitly."""
    A, B, dA, dB, s, Z = tensors

    def check(parts):
        change = s[:, None, None] * (Z @ (A + dA).mT @ (B + dB).mT - Z @ A.mT @ B.mT)
        torch.testing.assert_close(sum(parts), change, rtol=1e-11, atol=1e-11)
        sizes = torch.tensor([reference.size(run) for run in sum(parts)], dtype=torch.float64)
        torch.testing.assert_close(metrics.increments(A, B, dA, dB, s, Z)["feature/dZ_B"], sizes)

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
    fast = metrics.increments(A, B, dA, dB, torch.ones(1), Z)
    slow = reference.increments(A[0], B[0], dA[0], dB[0], 1.0, Z)

    def check(factor):
        for name, value in fast.items():
            assert factor * value.item() == pytest.approx(slow[name], rel=1e-6), name

    check(1.0)
    rejects(check, 1.00001)


def test_non_finite_factors_give_nan_for_their_run_only(tensors):
    A, B, _, _, s, Z = tensors
    broken = A.clone()
    broken[1, 0, 0] = torch.nan
    clean, measured = metrics.state(A, B, s, Z), metrics.state(broken, B, s, Z)
    for name, values in measured.items():
        assert torch.equal(values[[0, 2]], clean[name][[0, 2]]), name
        assert values[1].isnan() or name == "param/B", name


def test_zero_product_has_zero_norms_and_no_stable_rank():
    A, B = torch.ones(1, 2, 5), torch.zeros(1, 5, 2)
    measured = metrics.state(A, B, torch.ones(1), torch.ones(3, 5))
    assert measured["weight/fro"] == 0 and measured["weight/spectral"] == 0 and measured["weight/stable_rank"].isnan()

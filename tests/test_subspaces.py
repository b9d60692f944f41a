"""Spans of factors and singular values of their product, beside explicit bases and decompositions of one run."""

import numpy as np
import pytest
import torch
from conftest import configure, rejects
from test_checkpoint import same as same_runs

from runner.config.identity import run_id, with_values
from runner.training.measure.layer import columns_of
from runner.training.measure.subspaces import Subspaces, columns, entropy_rank, overlap
from runner.training.train import train

DOUBLE = torch.float64
K, SHAPES, RANK = 3, [(9, 7, 3), (5, 11, 2)], 3  # n_out, n_in, r


def factors(seed, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=DOUBLE)  # noqa: E731
    return [(scale * draw(K, r, n_in), scale * draw(K, n_out, r)) for n_out, n_in, r in SHAPES]


def moved(of, by):
    return [(A + dA, B + dB) for (A, B), (dA, dB) in zip(of, by, strict=True)]


def shared(now, before):
    """Mean squared cosine of principal angles, by QR, of the columns of two matrices."""
    (Q, _), (P, _) = torch.linalg.qr(now), torch.linalg.qr(before)
    return torch.linalg.svdvals(Q.T @ P).square().mean()


def written_out(start, before, after, s, layer, k):
    (A0, B0), (A, B), (new_A, new_B) = ([of[k] for of in each[layer]] for each in (start, before, after))
    sigma = torch.linalg.svdvals(s * B @ A)[: len(A)]
    p = sigma / sigma.sum()
    values = [shared(A.T, A0.T), shared(B, B0), shared(new_A.T, A.T), shared(new_B, B), (-(p * p.log()).sum()).exp()]
    return torch.stack([*values, *sigma, *torch.zeros(RANK - len(A), dtype=DOUBLE)])


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_every_column_is_what_decompositions_give():
    start, before = factors(0), factors(1)
    after, scales = moved(before, factors(2, 0.1)), torch.tensor([1.0, 0.25, 3.0], dtype=DOUBLE)
    found = Subspaces(start, RANK).measure(before, after, [scales] * 2)
    assert found.shape == (2, len(columns(RANK)), K)

    def check(start=start, before=before, after=after, factor=1.0):
        for layer in range(2):
            for k in range(K):
                same(found[layer, :-1, k], written_out(start, before, after, factor * scales[k], layer, k))

    check()
    rejects(check, before)
    rejects(check, start, before, start)
    rejects(check, start, before, after, 1.01)
    kept = Subspaces(start, RANK).of(torch.tensor([2, 0]))
    part = [[(A[[2, 0]], B[[2, 0]]) for A, B in of] for of in (before, after)]
    assert torch.equal(kept.measure(*part, [scales[[2, 0]]] * 2)[:, :-1], found[:, :-1, [2, 0]])


def test_spans_do_not_know_how_they_are_written():
    """A → T·A leaves the span of its rows; and a span of fewer directions lies within it."""
    [(A, B), _] = factors(3)
    T = torch.randn(K, 3, 3, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    meter = Subspaces([(A, B)], RANK)
    found = meter.measure([(T @ A, B)], [(T @ A, B)], [torch.ones(K, dtype=DOUBLE)])
    torch.testing.assert_close(found[0, :4], torch.ones(4, K, dtype=DOUBLE), rtol=1e-9, atol=0)
    part = A * torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)[:, None]
    within = Subspaces([(part, B)], RANK).measure([(A, B)], [(part, B)], [torch.ones(K, dtype=DOUBLE)])
    torch.testing.assert_close(within[0, 0], torch.ones(K, dtype=DOUBLE), rtol=1e-9, atol=0)
    torch.testing.assert_close(within[0, 2], torch.full((K,), 2 / 3, dtype=DOUBLE), rtol=1e-9, atol=0)


def test_what_is_not_defined():
    [(A, B), _] = factors(5)
    found = Subspaces([(A, 0 * B)], RANK).measure([(A, 0 * B)], [(A, B)], [torch.ones(K, dtype=DOUBLE)])
    names = columns(RANK)[:-1]  # but intruders, which are counted at the end
    undefined = {name for i, name in enumerate(names) if found[0, i].isnan().all()}
    assert undefined == {"subspace/B_start", "subspace/B_step", "spectrum/entropy_rank"}
    assert not found[0, -1 - RANK : -1].any()
    one = torch.tensor([[2.0, 2.0, 2.0], [5.0, 0.0, 0.0]], dtype=DOUBLE)
    torch.testing.assert_close(entropy_rank(one), torch.tensor([3.0, 1.0], dtype=DOUBLE))
    random = torch.linalg.qr(torch.randn(400, 200, 2, generator=torch.Generator().manual_seed(6), dtype=DOUBLE))[0].mT
    assert overlap(random[:200], random[200:]).mean() == pytest.approx(2 / 200, rel=0.2)  # r/n, as the docstring says


TOY = "task.width=16 task.teacher_width=16 task.train_points=20 steps=12".split()


def test_of_runs_it_changes_nothing_else_and_a_stack_nothing():
    """The first update of Init[A] is of B alone; a run that leaves the stack takes its start along."""
    base = configure(*TOY, "log.subspaces=true", "init=gaussian_A")
    changes = [{"optimizer.lr": lr, "seed": seed} for seed in (0, 1) for lr in (0.02, 1e4, 0.05)]
    configs = [with_values(base, change) for change in changes[:3]]
    outcomes = train(configs)
    same_runs([train([config])[0] for config in configs], outcomes)
    assert [o.status for o in outcomes] == ["finished", "diverged", "finished"]
    steps = outcomes[0].steps
    assert ["step", "train/loss", "eval/loss", *columns_of(base)] == list(steps)
    assert steps["subspace/A_start"][0] == pytest.approx(1, abs=1e-12) and steps["subspace/A_start"].iloc[-1] < 0.999
    assert steps["subspace/A_step"][0] == pytest.approx(1, abs=1e-12) and np.isnan(steps["subspace/A_step"].iloc[-1])
    np.testing.assert_allclose(steps["spectrum/1"], steps["weight/spectral"], rtol=1e-6)
    sizes = steps[[f"spectrum/{i}" for i in range(1, 5)]]
    np.testing.assert_allclose((sizes**2).sum(axis=1) ** 0.5, steps["weight/fro"], rtol=1e-6)
    [plain] = train([with_values(configs[0], {"log.subspaces": False})])
    assert plain.steps.equals(steps[list(plain.steps)])


def test_runs_without_it_keep_their_ids():
    plain = configure(*TOY)
    assert run_id(with_values(plain, {"log.subspaces": True})) != run_id(plain)


@pytest.mark.parametrize("adapter", ["vera", "full"])
def test_adapters_without_two_factors_are_refused(adapter, cli):
    init = "pretrained" if adapter == "full" else "vera_b0"
    code, _, err = cli("experiment=mine", *TOY, f"adapter={adapter}", f"init={init}", "log.subspaces=true")
    assert code == 2 and f"log.subspaces=true: adapter={adapter} has no factors A and B that train" in err

"""The algebra that inits declare: triplets, frames, levels of nf4, ranks."""

import math
from argparse import Namespace
from functools import partial

import pytest
import scipy.stats
import torch
from conftest import configure, rejects
from test_inits import DOUBLE, N_IN, N_OUT, RANK, has_moments, options, site

from runner.config import ConfigError
from runner.config.registry import INITS
from runner.core.rng import generator, normal, orthonormal
from runner.inits import Calibration
from runner.inits.etf import frame, has_frame
from runner.inits.spectral import NF4, nf4


def close(a, b, digits=1e-10):
    assert a.shape == b.shape and (a - b).abs().max() <= digits * b.abs().max()


@pytest.mark.parametrize(("name", "which"), [("pissa", slice(None, RANK)), ("milora", slice(-RANK, None))])
def test_pissa_and_milora_take_singular_triplets(name, which):
    at = site(scale=3.0)
    start = INITS[name].draw(at, **options(name))
    U, S, Vh = torch.linalg.svd(at.W0, full_matrices=False)
    close(3.0 * start.B @ start.A, U[:, which] * S[which] @ Vh[which])
    close(start.B.T @ start.B, start.A @ start.A.T)  # balanced
    rejects(close, start.B @ start.A, U[:, which] * S[which] @ Vh[which])


def test_corda_takes_triplets_of_the_weight_on_the_data():
    """s·B·A·C = the r first (ipm) or last (kpm) triplets of W0·C."""
    at = site(scale=2.0)
    C = at.calibration.moment + 0.01 * at.calibration.moment.diagonal().mean() * torch.eye(N_IN, dtype=DOUBLE)
    U, S, Vh = torch.linalg.svd(at.W0 @ C, full_matrices=False)
    for mode, which in (("ipm", slice(None, RANK)), ("kpm", slice(-RANK, None))):
        start = INITS["corda"].draw(at, mode=mode, damping=0.01)
        close(2.0 * start.B @ start.A @ C, U[:, which] * S[which] @ Vh[which], 1e-7)  # C has a condition number of 1e4
        rejects(close, start.B @ start.A @ C, U[:, which] * S[which] @ Vh[which], 1e-7)


def test_corda_doubles_the_damping_until_the_inverse_is_one():
    """Inputs of one direction, in float32, and a damping that is lost in rounding: the first multiple that is invertible."""
    n = 48
    C, at = torch.ones(n, n), site(scale=2.0, shape=(24, n))
    at.W0, at.calibration = at.W0.float(), Calibration(moment=C)

    def damped(doublings):
        return C + 2.0**doublings * 1e-7 * C.diagonal().mean() * torch.eye(n)

    def invertible(doublings):
        inverse, singular = torch.linalg.inv_ex(damped(doublings))
        return not singular and (damped(doublings) @ inverse - torch.eye(n)).norm() < 0.05

    first = next(doublings for doublings in range(40) if invertible(doublings))
    assert first > 2
    start = INITS["corda"].draw(at, mode="ipm", damping=1e-7)

    def check(doublings):
        U, S, Vh = torch.linalg.svd(at.W0 @ damped(doublings), full_matrices=False)
        expected = U[:, :RANK] * (S[:RANK] / 2) @ (Vh[:RANK] @ torch.linalg.inv(damped(doublings)))
        close(start.B @ start.A, expected, 1e-4)  # the same float32 operations, but for the order of the roots

    check(first)
    rejects(check, first - 1)
    rejects(check, first + 1)


@pytest.mark.parametrize("factor", [0.0, math.inf])
def test_corda_refuses_data_of_which_no_multiple_is_invertible(factor):
    at = site()
    at.calibration = Calibration(moment=factor * at.calibration.moment)
    with pytest.raises(ConfigError, match=r"^init=corda: a layer reads nothing but zeros"):
        INITS["corda"].draw(at, mode="ipm", damping=0.01)


def test_orthogonal_factors_annihilate_each_other():
    at = site()
    start = INITS["orthogonal"].draw(at)
    assert (start.B @ start.A).abs().max() < 1e-14 and torch.linalg.matrix_rank(start.A) == RANK // 2
    x = torch.cat([INITS["orthogonal"].draw(site(seed)).A.flatten() for seed in range(20)])
    assert x.var().item() == pytest.approx(1 / 200, rel=0.1)


def test_lora_one_steps_along_the_negative_gradient():
    at = site()
    start = INITS["lora_one"].draw(at, gamma=128.0)
    U, S, Vh = torch.linalg.svd(at.calibration.gradient, full_matrices=False)
    close(start.B @ start.A, -U[:, :RANK] * (S[:RANK] / S[0] / 128) @ Vh[:RANK])
    rejects(close, start.B @ start.A, U[:, :RANK] * (S[:RANK] / S[0] / 128) @ Vh[:RANK])


def test_without_a_gradient_lora_one_starts_at_zero():
    """As at task=sine, where nothing comes back from y = 0; other gradients do not."""

    def check(gradient):
        at = site()
        at.calibration = Calibration(gradient=gradient)
        start = INITS["lora_one"].draw(at, gamma=128.0)
        assert (start.A == 0).all() and (start.B == 0).all()

    gradient = site().calibration.gradient
    check(torch.zeros_like(gradient))
    rejects(check, 1e-30 * gradient)


def is_frame(F, N, d):
    """Columns of one length, |inner products| all the same, F·Fᵀ a multiple of one."""
    gram = F.T @ F
    off = gram[~torch.eye(N, dtype=torch.bool)].abs()
    close(gram.diagonal(), gram[0, 0].expand(N))
    assert (off - off[0]).abs().max() < 1e-12 * gram[0, 0]
    close(F @ F.T, gram[0, 0] * N / d * torch.eye(d, dtype=DOUBLE), 1e-12)
    if N > d:  # Welch: as wide apart as can be
        assert off[0] / gram[0, 0] == pytest.approx(math.sqrt((N - d) / (d * (N - 1))))


@pytest.mark.parametrize(("d", "N"), [(5, 5), (5, 6), (1, 2), (6, 16), (10, 16), (28, 64), (36, 64), (120, 256)])
def test_frames_are_equiangular_and_tight(d, N):
    assert d == 1 or has_frame(d, N)
    is_frame(frame(d, N), N, d)
    random = torch.nn.functional.normalize(torch.randn(d, N, dtype=DOUBLE), dim=0)
    if d > 1:
        rejects(is_frame, random, N, d)


def test_there_are_few_frames():
    assert not any(has_frame(1, N) for N in range(1, 70))  # one dimension has no angles
    assert [N for N in range(2, 70) if has_frame(6, N)] == [6, 7, 16] and not has_frame(4, 128)


def test_the_nearest_frame_is_one_that_the_layer_can_take():
    refuses = partial(INITS["etf"].unsupported, options=Namespace(vectors="columns"))
    assert "the nearest rank that has one is 6" in refuses(7, (32, 16))
    assert "no rank of this layer has one" in refuses(4, (32, 96))


def test_one_vector_is_no_simplex():
    refuses = partial(INITS["etf"].unsupported, shape=(32, 16), options=Namespace(vectors="rows"))
    assert "at least 2" in refuses(1) and refuses(2) is None


def test_etf_rows_are_a_simplex_and_columns_a_frame():
    A = INITS["etf"].draw(site(), vectors="rows").A
    close(A @ A.T, torch.eye(RANK, dtype=DOUBLE) * RANK / (RANK - 1) - 1 / (RANK - 1))
    A = INITS["etf"].draw(site(rank=28, shape=(30, 64)), vectors="columns").A
    is_frame(A, 64, 28)
    close(A @ A.T, torch.eye(28, dtype=DOUBLE))


def test_frames_are_in_random_positions():
    """Rows: the projection on their span is a multiple of I in the mean. Columns: so is a·aᵀ for a column a, by the rotation in
    front, and columns come in an order of their own. Within 5 standard errors of the mean."""
    seeds, r, shape = 400, 3, (8, 6)

    def is_multiple_of_one(samples):
        mean, error = samples.mean(0), samples.std(0) / seeds**0.5
        assert ((mean - mean.diagonal().mean() * torch.eye(len(mean))).abs() < 5 * error).all()

    def drawn(vectors, shape):
        return torch.stack([INITS["etf"].draw(site(seed, r, shape), vectors=vectors).A for seed in range(seeds)])

    rows = drawn("rows", shape)
    projections = torch.linalg.pinv(rows, rtol=1e-6) @ rows
    close(projections.diagonal(dim1=1, dim2=2).sum(1), torch.full((seeds,), r - 1.0, dtype=DOUBLE))
    is_multiple_of_one(projections)
    rejects(is_multiple_of_one, projections * torch.linspace(1, 1.5, shape[1], dtype=DOUBLE))
    columns = drawn("columns", (8, r + 1))
    of_first = columns[:, :, 0]
    is_multiple_of_one(of_first[:, :, None] * of_first[:, None])
    grams = columns.mT @ columns
    close(grams, grams[0].expand_as(grams))  # all angles of a simplex are the same, whatever the order
    frames = drawn("columns", (8, r))  # of an orthonormal basis it is the order that rotations leave out
    assert len({tuple(a.argmax(1).tolist()) for a in frames}) > 1


def test_orthonormal_columns_lie_in_uniformly_random_positions():
    """Entries of Haar's measure have mean 0 and variance 1/n: within 5 standard errors. LAPACK's own Q is the control: its
    first entry is never positive."""
    seeds, n, r = 400, 5, 3

    def is_uniform(Q):
        close(Q.mT @ Q, torch.eye(r, dtype=DOUBLE).expand(seeds, r, r))
        assert (Q.mean(0).abs() < 5 * (1 / n / seeds) ** 0.5).all()
        assert ((Q.square().mean(0) - 1 / n).abs() < 5 * (Q.square().std(0) / seeds**0.5)).all()

    is_uniform(torch.stack([orthonormal(n, r, generator=generator(seed, "init")) for seed in range(seeds)]))
    drawn = [normal(n, r, variance=1, generator=generator(seed, "init")).double() for seed in range(seeds)]
    rejects(is_uniform, torch.linalg.qr(torch.stack(drawn)).Q)


@pytest.mark.parametrize("std", [0.3, 2.0])
def test_vera_d0_draws_b_of_the_deviation_asked_for(std):
    b = torch.cat([INITS["vera_d0"].draw(site(seed), b_std=std).B for seed in range(20)])
    has_moments(b, std**2, 0)
    rejects(has_moments, b, std, 0)


def test_the_levels_of_nf4_are_quantiles_of_a_normal_distribution():
    """As QLoRA makes them: 8 on one side and 9 on the other, with the zero shared and the outermost at ±1."""
    offset = 0.9677083
    tail = scipy.stats.norm.ppf(torch.linspace(offset, 0.5, 9)[:-1].numpy())
    other = -scipy.stats.norm.ppf(torch.linspace(offset, 0.5, 8)[:-1].numpy())
    levels = torch.tensor(sorted([*tail, 0.0, *other]), dtype=DOUBLE)
    close(torch.tensor(NF4, dtype=DOUBLE), levels / levels.max(), 1e-6)  # they were computed in float32


def test_nf4_rounds_every_entry_to_the_nearest_level_of_its_block():
    W = torch.randn(10, 13, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    flat, rounded = W.flatten(), nf4(W, 8).flatten()
    for i, x in enumerate(flat):
        block = flat[i // 8 * 8 : i // 8 * 8 + 8].abs().max()
        nearest = min((level * block.item() for level in NF4), key=lambda level: abs(level - x.item()))
        assert rounded[i].item() == pytest.approx(nearest, abs=1e-15)
    assert not nf4(torch.zeros(4, 4), 8).any()


def test_loftq_makes_up_for_the_rounding():
    """Its product is the best rank-r approximation of what rounding took, for every s, and more iterations leave less."""
    at = site(scale=3.0)
    left = []
    for iterations in (1, 5):
        start = INITS["loftq"].draw(at, iterations=iterations, block=64)
        close(nf4(start.base, 64), start.base)  # it is of 4 bits
        U, S, Vh = torch.linalg.svd(at.W0 - start.base, full_matrices=False)
        close(3.0 * start.B @ start.A, U[:, :RANK] * S[:RANK] @ Vh[:RANK], 1e-9)
        left.append((at.W0 - start.base - 3.0 * start.B @ start.A).norm())
    assert left[1] < left[0] < (at.W0 - nf4(at.W0, 64)).norm()


def test_eva_spreads_ranks_by_explained_variance():
    """A layer with three large components and one whose variance is even: the first gets more, within rho·r."""
    steep = torch.cat([torch.tensor([9.0, 8.0, 7.0]), torch.full((13,), 0.1)]).double()
    shown = {
        "steep": Calibration(torch.zeros(16, dtype=DOUBLE), torch.diag(steep)),
        "even": Calibration(torch.zeros(16, dtype=DOUBLE), torch.eye(16, dtype=DOUBLE)),
    }
    init = configure("init=eva").init
    assert INITS["eva"].ranks(shown, 2, init) == {"steep": 3, "even": 1}
    shown["steep"] = Calibration(shown["steep"].mean, 1e-3 * shown["steep"].moment)
    assert INITS["eva"].ranks(shown, 2, init) == {"steep": 3, "even": 1}  # shares have no unit
    init.rho = 1.0
    assert INITS["eva"].ranks(shown, 2, init) == {"steep": 2, "even": 2}


def test_a_layer_that_eva_gives_no_rank_is_left_as_it_is():
    """Factors of rank 1, because tensors of none have no shape to stack: zeros that do not train."""
    start = INITS["eva"].draw(site(rank=0), rho=2.0)
    assert start.A.shape == (1, N_IN) and start.B.shape == (N_OUT, 1) and not start.A.any() and not start.B.any()
    assert start.frozen == ("A", "B") != INITS["eva"].draw(site(rank=1), rho=2.0).frozen

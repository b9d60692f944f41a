"""The algebra that inits declare: triplets, frames, levels of nf4, ranks."""

import math
from argparse import Namespace
from functools import partial

import pytest
import scipy.stats
import torch
from conftest import configure, rejects
from test_inits import DOUBLE, N_IN, RANK, site

from runner.config import ConfigError
from runner.config.registry import INITS
from runner.inits import Calibration
from runner.inits.etf import frame, has_frame
from runner.inits.spectral import NF4, nf4


def close(a, b, digits=1e-10):
    assert a.shape == b.shape and (a - b).abs().max() <= digits * b.abs().max()


@pytest.mark.parametrize(("name", "which"), [("pissa", slice(None, RANK)), ("milora", slice(-RANK, None))])
def test_pissa_and_milora_take_singular_triplets(name, which):
    at = site(scale=3.0)
    start = INITS[name].draw(at)
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
    assert [N for N in range(2, 70) if has_frame(6, N)] == [6, 7, 16] and not has_frame(4, 128)


def test_the_nearest_frame_is_one_that_the_layer_can_take():
    refuses = partial(INITS["etf"].unsupported, options=Namespace(vectors="columns"))
    assert "the nearest rank that has one is 6" in refuses(7, (32, 16))
    assert "no rank of this layer has one" in refuses(4, (32, 96))


def test_etf_rows_are_a_simplex_and_columns_a_frame():
    A = INITS["etf"].draw(site(), vectors="rows").A
    close(A @ A.T, torch.eye(RANK, dtype=DOUBLE) * RANK / (RANK - 1) - 1 / (RANK - 1))
    A = INITS["etf"].draw(site(rank=28, shape=(30, 64)), vectors="columns").A
    is_frame(A, 64, 28)
    close(A @ A.T, torch.eye(28, dtype=DOUBLE))


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
    init.rho = 1.0
    assert INITS["eva"].ranks(shown, 2, init) == {"steep": 2, "even": 2}

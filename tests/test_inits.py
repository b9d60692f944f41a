"""Each init against the distribution and the algebra that its docstring declares; those of PEFT against PEFT."""

import math
from functools import cache
from typing import NamedTuple

import pytest
import scipy.stats
import torch
from conftest import configure, rejects

from runner.adapters import ADAPTERS
from runner.inits import INITS, Shown, Site
from runner.inits.etf import frame, has_frame
from runner.inits.spectral import NF4, nf4
from runner.rng import generator
from runner.start import build_adapters
from runner.train import build_task

CPU, DOUBLE = torch.device("cpu"), torch.float64
N_OUT, N_IN, RANK = 96, 640, 8


class Row(NamedTuple):
    """What an init declares: variances of A and B (0: zero, None: not drawn entry by entry), the excess kurtosis of their family,
    and whether training starts at the frozen model's output."""

    A: float | None
    B: float | None
    kurtosis: float = 0.0
    starts_at_W0: bool = True


ROWS = {
    "gaussian_A": Row(1 / N_IN, 0),
    "gaussian_B": Row(0, 1 / RANK),
    "gaussian_AB": Row(1 / N_IN, 1 / RANK),
    "kaiming_A": Row(1 / (3 * N_IN), 0, -1.2),
    "kaiming_B": Row(0, 1 / (3 * RANK), -1.2),
    "peft_gaussian": Row(1 / RANK**2, 0),
    "zero": Row(0, 0),
    "orthogonal": Row(None, None),
    "etf": Row(None, 0),
    "pissa": Row(None, None),
    "milora": Row(None, None),
    "olora": Row(None, None),
    "mica": Row(0, None),
    "loftq": Row(None, None, starts_at_W0=False),
    "eva": Row(None, 0),
    "corda": Row(None, None),
    "lora_ga": Row(None, None),
    "lora_one": Row(None, None, starts_at_W0=False),
    "vera_b0": Row(None, 0),  # of d and b
    "vera_d0": Row(0, 1),
}


def options(name: str) -> dict:
    """As its YAML file sets them."""
    vera = ["adapter=vera"] if name.startswith("vera") else []
    return configure(*vera, f"init={name}").init.options()


@cache
def layer(shape: tuple[int, int]) -> tuple[torch.Tensor, Shown]:
    """A weight, and inputs and a gradient of its own."""
    g = torch.Generator().manual_seed(1)
    W0, X, G = (torch.randn(*s, generator=g, dtype=DOUBLE) for s in (shape, (2000, shape[1]), shape))
    X = X * torch.linspace(0.1, 2, shape[1], dtype=DOUBLE) + 0.3
    return W0, Shown(X.mean(0), X.T @ X / len(X), G)


def site(seed: int = 0, rank: int = RANK, shape: tuple[int, int] = (N_OUT, N_IN), scale: float = 1.0) -> Site:
    W0, shown = layer(shape)
    return Site(W0, rank, scale, generator(seed, "init"), shown)


def draw(name: str, seed: int = 0, **changes) -> dict[str, torch.Tensor]:
    start = INITS[name].draw(site(seed), **(options(name) | changes))
    return {"A": start.A, "B": start.B}


def test_every_init_has_a_row_here():
    assert ROWS.keys() == INITS.keys()


# Distributions ------------------------------------------------------------------------------------


def has_moments(x, variance, kurtosis):
    """Mean, variance and kurtosis within 5 standard errors of N draws (variance of the sample variance: (κ + 2)/N)."""
    N = x.numel()
    x = x.double().flatten() / math.sqrt(variance)
    assert abs(x.mean()) < 5 / math.sqrt(N)
    assert abs(x.square().mean() - 1) < 5 * math.sqrt((kurtosis + 2) / N)
    assert abs(x.pow(4).mean() - 3 - kurtosis) < 5 * math.sqrt(96 / N)


@pytest.mark.parametrize("name", ROWS)
def test_distribution(name):
    row, factors = ROWS[name], draw(name)
    if not name.startswith("vera"):
        assert factors["A"].shape == (RANK, N_IN) and factors["B"].shape == (N_OUT, RANK)
    for side, variance in (("A", row.A), ("B", row.B)):
        if variance == 0:
            assert not factors[side].any(), f"{side} must be zero"
        elif variance:
            # Many seeds together, so that a scale off by 10% lies more than 5 standard errors away.
            x = torch.cat([draw(name, seed)[side].flatten() for seed in range(20)])
            has_moments(x, variance, row.kurtosis)
            rejects(has_moments, 1.1 * x, variance, row.kurtosis)
            rejects(has_moments, x, variance, -1.2 - row.kurtosis)  # the other family
        else:
            assert factors[side].any(), f"{side} must not be zero"


@pytest.mark.parametrize(("choice", "variance"), [("layer", 1 / N_IN), ("rank", 1 / RANK), ("unit", 1.0)])
def test_gaussian_AB_draws_B_as_asked(choice, variance):
    has_moments(
        torch.cat([draw("gaussian_AB", seed, B_variance=choice)["B"].flatten() for seed in range(20)]), variance, 0
    )


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("kaiming")])
def test_kaiming_has_the_bound_of_pytorchs_linear_layer(name):
    variance = ROWS[name].A or ROWS[name].B
    bound = math.sqrt(3 * variance)
    largest = max(max(p.abs().max() for p in draw(name, seed).values()) for seed in range(5))
    assert 0.999 * bound < largest <= bound


def test_seeds_and_streams_are_independent():
    assert torch.equal(draw("gaussian_A")["A"], draw("gaussian_A")["A"])
    assert not torch.equal(draw("gaussian_A", 0)["A"], draw("gaussian_A", 1)["A"])
    first, second = (torch.randn(1000, generator=generator(0, name)) for name in ("init", "data"))
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 5 / math.sqrt(1000)


# Where training starts ----------------------------------------------------------------------------


def outputs(*overrides: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(the frozen layer's outputs, those of the adapted layer at the start) on a toy."""
    config = configure("task.width=48", "task.train_points=60", "dtype=float64", "engine=autograd", *overrides)
    task = build_task([config]).to(CPU, DOUBLE)
    frozen = task.train.y0.clone()
    adapter = build_adapters([config], task, CPU, DOUBLE)["hidden"]
    with torch.no_grad():
        return frozen, adapter(task.train.Z, task.train.y0, task.train.added)[0]


def is_noop(frozen, started):
    assert (frozen - started).abs().max() <= 1e-12 * frozen.abs().max()


STARTS = [(a, n) for a, kind in ADAPTERS.items() for n, i in INITS.items() if set(i.gives) <= kind.sides.keys()]


@pytest.mark.parametrize(("adapter", "name"), STARTS, ids=str)
def test_training_starts_at_the_frozen_models_output_or_does_not(adapter, name):
    """To rounding: B·A = 0, or a product that is taken from the frozen weight."""
    found = outputs(f"adapter={adapter}", f"init={name}", *(["adapter.alpha=6"] if adapter != "vera" else []))
    is_noop(*found) if ROWS[name].starts_at_W0 else rejects(is_noop, *found)


def test_a_random_product_that_is_not_subtracted_moves_the_start():
    is_noop(*outputs("init=gaussian_AB", "init.subtract=true"))
    rejects(is_noop, *outputs("init=gaussian_AB", "init.subtract=false"))


def test_scale_multiplies_both_factors_and_their_offset():
    for name in ("pissa", "gaussian_A"):
        config = configure("task.width=48", f"init={name}", "init.scale=2")
        one, two = (
            build_adapters([c], build_task([config]), CPU, DOUBLE)["hidden"]
            for c in (configure("task.width=48", f"init={name}"), config)
        )
        for p, q in zip(one.parameters.values(), two.parameters.values(), strict=True):
            torch.testing.assert_close(q, 2 * p)
    is_noop(*outputs("init=pissa", "init.scale=2"))


# Algebra ------------------------------------------------------------------------------------------


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
    C = at.shown.moment + 0.01 * at.shown.moment.diagonal().mean() * torch.eye(N_IN, dtype=DOUBLE)
    U, S, Vh = torch.linalg.svd(at.W0 @ C, full_matrices=False)
    for mode, which in (("ipm", slice(None, RANK)), ("kpm", slice(-RANK, None))):
        start = INITS["corda"].draw(at, mode=mode, damping=0.01)
        close(2.0 * start.B @ start.A @ C, U[:, which] * S[which] @ Vh[which], 1e-7)  # C has a condition number of 1e4
        rejects(close, start.B @ start.A @ C, U[:, which] * S[which] @ Vh[which], 1e-7)


def test_orthogonal_factors_annihilate_each_other():
    at = site()
    start = INITS["orthogonal"].draw(at)
    assert (start.B @ start.A).abs().max() < 1e-14 and torch.linalg.matrix_rank(start.A) == RANK // 2
    x = torch.cat([INITS["orthogonal"].draw(site(seed)).A.flatten() for seed in range(20)])
    assert x.var().item() == pytest.approx(1 / 200, rel=0.1)


def test_lora_one_steps_along_the_negative_gradient():
    at = site()
    start = INITS["lora_one"].draw(at, gamma=128.0)
    U, S, Vh = torch.linalg.svd(at.shown.gradient, full_matrices=False)
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
        "steep": Shown(torch.zeros(16, dtype=DOUBLE), torch.diag(steep)),
        "even": Shown(torch.zeros(16, dtype=DOUBLE), torch.eye(16, dtype=DOUBLE)),
    }
    init = configure("init=eva").init
    assert INITS["eva"].ranks(shown, 2, init) == {"steep": 3, "even": 1}
    init.rho = 1.0
    assert INITS["eva"].ranks(shown, 2, init) == {"steep": 2, "even": 2}

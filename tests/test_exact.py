"""Products and roots whose bits depend on neither library, processor nor threads, and the toys that are built of them."""

import math
import os
import platform
import subprocess
import sys
from fractions import Fraction
from functools import cache

import llvmlite.binding
import numpy as np
import pytest
import torch
from conftest import rejects

from runner.core.exact import COLUMNS, ROWS, _slices, product, sqrt_, total

# rows, inner, columns: at the borders of a chunk of columns, one of each, and inner sizes at a power of two
SHAPES = [(7, 128, 5), (3, 1, 2), (1, 513, COLUMNS + 1), (20, 1024, 3), (2, 4097, 2)]


def features() -> str:
    """Of the processor, as Numba has them."""
    return llvmlite.binding.get_host_cpu_features().flatten()


def factors(shape, dtype=torch.float32):
    rows, inner, columns = shape
    g = torch.Generator().manual_seed(inner)
    # rows and columns of very different sizes, and entries of one row, too
    X, Y = (torch.randn(*s, generator=g, dtype=dtype) for s in ((rows, inner), (inner, columns)))
    return X * 10.0 ** torch.arange(rows)[:, None], Y * 100.0 ** -(torch.arange(columns) % 5) * torch.rand(inner, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_the_same_in_any_order_of_summation(shape):
    X, Y = factors(shape)
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(0))
    assert torch.equal(product(X, Y), product(X[:, order], Y[order]))
    if shape[1] > 1:  # the control: the library's own float64 sums round, in an order of their own
        assert not torch.equal(X.double() @ Y.double(), X.double()[:, order] @ Y.double()[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_as_good_as_its_slices(shape, dtype):
    """With slices of b bits an entry of X or Y is off by at most 2^-2b of the largest of its row or column, and low·low,
    which is dropped, is at most 2^-2b of the largest product: in all 3·q·2^-2b of it. The reference rounds at 2^-53 a term."""
    X, Y = (f.double() for f in factors(shape, dtype))
    inner, bits = shape[1], (53 - (2 * shape[1] - 1).bit_length()) // 2
    largest = X.abs().amax(1, keepdim=True) * Y.abs().amax(0, keepdim=True)

    def check(result):
        assert ((result - X @ Y).abs() <= (3 * 2.0 ** (-2 * bits) + 2.0**-52) * inner * largest).all()

    check(product(X, Y))
    rejects(check, product(X, Y) + 1e-7 * largest)
    torch.testing.assert_close(product(X, Y[:, 0]), product(X, Y)[:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(ROWS + 3, 5, 4), (3, 40, COLUMNS + 1), (2, 1024, 3)], ids=str)
def test_a_product_is_that_of_the_integers(shape):
    """To the bit: Python's integers know no rounding. The control leaves out what is 2^b times smaller."""
    X, Y = factors((1, *shape[1:]))
    X = X * torch.linspace(-3, 5, shape[0])[:, None]
    bits = (53 - (2 * shape[1] - 1).bit_length()) // 2
    high, low, unit = _slices(X.double(), bits, dim=1)
    top, rest, scale = _slices(Y.double(), bits, dim=0)

    def check(found, small=1):
        row, column = (t.long().tolist() for t in (high, top.T))
        tail, end = (t.long().tolist() for t in (low, rest.T))
        for i, j in [(0, 0), (-1, -1), (shape[0] // 2, shape[2] // 2), (shape[0] - 1, 0), (0, shape[2] - 1)]:
            large = sum(a * b for a, b in zip(row[i], column[j], strict=True))
            pairs = zip(tail[i] + row[i], column[j] + end[j], strict=True)  # low·top, high·rest
            less = small * sum(a * b for a, b in pairs)
            nearest = float(large + Fraction(less, 2**bits))
            assert found[i, j].item() == nearest * (unit[i, 0] * scale[0, j]).item()

    check(product(X, Y))
    rejects(check, product(X, Y), 0)
    for part in (0, -1):
        nudged = product(X, Y)
        nudged[part, part] = torch.nextafter(nudged[part, part], torch.tensor(torch.inf, dtype=torch.float64))
        rejects(check, nudged)


def test_zeros_and_what_is_not_finite_pass():
    X = torch.tensor([[0.0, 0.0], [1.0, -2.0], [torch.inf, 1.0]])
    assert product(X, torch.eye(2))[:2].equal(X[:2].double())
    assert not product(X, torch.eye(2))[2].isfinite().all()


@pytest.mark.parametrize("length", [1, 2, 3, 8, 1000, 1023])
def test_totals_are_sums(length):
    """Against sums that are rounded once; halves round log2(length) times, at 2^-53 of the sum of magnitudes."""
    x = torch.randn(5, length, generator=torch.Generator().manual_seed(length), dtype=torch.float64)

    def check(found):
        for row, number in zip(x.tolist(), found.tolist(), strict=True):
            assert abs(number - math.fsum(row)) <= length.bit_length() * 2.0**-53 * math.fsum(map(abs, row))

    check(total(x))
    rejects(check, total(x) + 1e-12 * length)
    assert total(x[0]) == total(x)[0]


def test_roots_are_the_nearest_numbers():
    """Of float32 the nearest is the root in float64, rounded: 53 >= 2·24 + 2 bits (Figueroa 1995). Of float64 exact fractions
    tell. Controls are one unit off in one place."""
    x = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 30, 20_000)
    x[:4] = torch.tensor([0.0, torch.inf, 1.0, torch.finfo(torch.float32).tiny / 8])
    nearest = torch.tensor([math.sqrt(number) for number in x.double().tolist()]).float()

    def check(roots):
        assert roots.equal(nearest)

    check(sqrt_(x.clone()))
    wrong = nearest.clone()
    wrong[7] = torch.nextafter(wrong[7], torch.tensor(torch.inf))
    rejects(check, wrong)
    strided = x.repeat(2, 1).T
    assert sqrt_(strided) is strided
    check(strided[:, 1])
    assert sqrt_(torch.tensor([-1.0])).isnan().all()

    def is_nearest(root, number):
        below, above = (Fraction(root) + Fraction(math.nextafter(root, end)) for end in (0.0, math.inf))
        assert (below / 2) ** 2 <= Fraction(number) <= (above / 2) ** 2

    for number in x[x > 0].double()[1:200].tolist():
        root = sqrt_(torch.tensor([number], dtype=torch.float64)).item()
        is_nearest(root, number)
        rejects(is_nearest, math.nextafter(root, math.inf), number)
    half = torch.tensor([2.0, 3.0], dtype=torch.bfloat16)
    torch.testing.assert_close(sqrt_(half.clone()), half.sqrt(), rtol=0, atol=0)


TOYS = """
import sys
from pathlib import Path
from unittest.mock import Mock
import numpy as np
from runner.config.command import read
from runner.sweeps.compose import compose_sweep
from runner.training.measure import compiled
from runner.training.train import train
sizes = ["task.width=160", "task.train_points=150", "steps=12"]
folder, *kinds = sys.argv[1:]
for number, kind in enumerate(kinds):
    kind, unmeasured, _ = kind.partition(" unmeasured")
    if unmeasured:
        compiled.measure = Mock()
    steps = train(compose_sweep(read([*sizes, *kind.split()])).runs)[0].steps
    np.save(Path(folder) / str(number), (steps[["train/loss", "eval/loss"]] if unmeasured else steps).to_numpy(float))
"""
PLAIN = [
    "init=gaussian_B",
    "init=gaussian_AB optimizer.clip=0.5",
    "adapter=vera optimizer.schedule=cosine",
    "task=sine init=gaussian_AB",
    "task=sine init=gaussian_AB dtype=float64",
    "task=feature_regression init=kaiming_A optimizer.weight_decay=0.1",
    "task=feature_regression init=kaiming_B optimizer=sgd optimizer.momentum=0.9",
    "task=feature_regression dtype=float64 optimizer=signsgd",
]
DECOMPOSED = [  # in float64, by the library, and rounded: to the same numbers but for one in millions
    "init=orthogonal",
    "init=pissa",
    "init=etf",
    "task=feature_regression init=olora",
    "task=feature_regression init=corda",
    "task=feature_regression init=lora_one",
]
UNMEASURED = f"{PLAIN[0]} unmeasured"  # losses alone
AUTOGRAD = "task=feature_regression engine=autograd"
AVX2 = ",".join(f"+{name}" for name in "sse4.2 popcnt avx avx2 fma bmi bmi2 f16c lzcnt movbe".split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(…)` -> the columns of every kind, by a process with these variables in its environment."""

    @cache
    def tables(*kinds, **environment):
        folder = tmp_path_factory.mktemp("toys")
        command = [sys.executable, "-c", TOYS, str(folder), *kinds]
        subprocess.run(command, env=os.environ | environment, capture_output=True, check=True)
        return [np.load(folder / f"{number}.npy") for number in range(len(kinds))]

    return tables


def same_bits(mine, others):
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(mine, others, strict=True))


@pytest.mark.skipif(platform.machine() != "x86_64" or "avx2" not in features(), reason="of x86-64 processors with FMA")
def test_a_toys_records_do_not_depend_on_the_librarys_kernels(trained):
    """torch's and MKL's for AVX2, in the place of those that the processor selects. The control is autograd's engine, which
    takes them in its steps, where there are others (MKL's)."""
    *mine, control = trained(*PLAIN, *DECOMPOSED, AUTOGRAD)
    *others, its = trained(*PLAIN, *DECOMPOSED, AUTOGRAD, ATEN_CPU_CAPABILITY="avx2", MKL_CBWR="COMPATIBLE")
    same_bits(mine[: len(PLAIN)], others[: len(PLAIN)])
    for a, b in zip(mine[len(PLAIN) :], others[len(PLAIN) :], strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
    if torch.backends.mkl.is_available():
        rejects(same_bits, [control], [its])


@pytest.mark.skipif(platform.machine() != "x86_64" or "avx2" not in features(), reason="of x86-64 processors with FMA")
def test_a_toys_records_do_not_depend_on_the_vectors_of_the_processor(trained):
    """Of our own kernels; those without FMA are the control: of a step, for those that measure take longest to compile. One
    kind, for its kernels are compiled for each of the two. Without its measurements it has the same losses."""
    mine, losses = trained(PLAIN[0], UNMEASURED)
    others, its = trained(PLAIN[0], UNMEASURED, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=AVX2)
    same_bits([mine, losses], [others, its])
    assert {*losses[:, 0]} < {*mine.flat}
    rejects(same_bits, [losses], trained(UNMEASURED, NUMBA_CPU_NAME="generic"))

"""Products and roots whose bits depend on neither library, processor nor threads, and the toys that are built of them."""

import math
import os
import platform
import subprocess
import sys
from fractions import Fraction
from functools import cache

import pytest
import torch
from conftest import rejects

from runner.core.exact import COLUMNS, product, sqrt_

# rows, inner, columns: at the borders of a chunk of columns, one of each, and inner sizes at a power of two
SHAPES = [(7, 128, 5), (3, 1, 2), (1, 513, COLUMNS + 1), (20, 1024, 3), (2, 4097, 2)]


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


def test_zeros_and_what_is_not_finite_pass():
    X = torch.tensor([[0.0, 0.0], [1.0, -2.0], [torch.inf, 1.0]])
    assert product(X, torch.eye(2))[:2].equal(X[:2].double())
    assert not product(X, torch.eye(2))[2].isfinite().all()


def test_roots_are_the_nearest_numbers():
    """Of float32 the nearest is the root in float64, rounded: 53 >= 2·24 + 2 bits (Figueroa 1995). Of float64 exact fractions
    tell. MKL's roots are not: the control, where torch has it."""
    x = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 30, 20_000)
    x[:4] = torch.tensor([0.0, torch.inf, 1.0, torch.finfo(torch.float32).tiny / 8])
    nearest = torch.tensor([math.sqrt(number) for number in x.double().tolist()]).float()

    def check(roots):
        assert roots.equal(nearest)

    check(sqrt_(x.clone()))
    if torch.backends.mkl.is_available():
        rejects(check, x.sqrt())
    strided = x.repeat(2, 1).T
    assert sqrt_(strided) is strided
    check(strided[:, 1])
    assert sqrt_(torch.tensor([-1.0])).isnan().all()

    for number in x[x > 0].double()[1:200].tolist():
        root = sqrt_(torch.tensor([number], dtype=torch.float64)).item()
        below, above = (Fraction(root) + Fraction(math.nextafter(root, end)) for end in (0.0, math.inf))
        assert (below / 2) ** 2 <= Fraction(number) <= (above / 2) ** 2
    half = torch.tensor([2.0, 3.0], dtype=torch.bfloat16)
    torch.testing.assert_close(sqrt_(half.clone()), half.sqrt(), rtol=0, atol=0)


TOYS = """
import hashlib, sys
from runner.config.command import read
from runner.sweeps.compose import compose_sweep
from runner.training.train import train
sizes = ["task.width=160", "task.train_points=150", "steps=12"]
for kind in sys.argv[1:]:
    steps = train(compose_sweep(read([*sizes, *kind.split()])))[0].steps
    print(hashlib.sha256(steps.to_numpy().tobytes()).hexdigest())
"""
KINDS = [
    "init=gaussian_B",
    "init=orthogonal optimizer=signsgd",
    "init=pissa",
    "init=etf optimizer.clip=0.5",
    "adapter=vera optimizer.schedule=cosine",
    "task=sine init=gaussian_AB",
    "task=feature_regression init=lora_one optimizer.weight_decay=0.1",
    "task=feature_regression init=corda optimizer=sgd",
    "task=feature_regression init=olora",
    "task=feature_regression dtype=float64",
]
CONTROL = "task=feature_regression engine=autograd"
OTHERS = {
    "torch's and MKL's kernels for AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"},
    "Numba's for another processor": {"NUMBA_CPU_NAME": "haswell"},
}


@cache
def hashes(**environment: str) -> list[str]:
    command = [sys.executable, "-c", TOYS, *KINDS, CONTROL]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64 processors")
@pytest.mark.parametrize("other", OTHERS)
def test_a_toys_records_do_not_depend_on_the_kernels_that_the_processor_selects(other):
    """Autograd's engine, which uses the library's in its steps, is the control, where it has others (MKL)."""
    *mine, control = hashes()
    *others, its = hashes(**OTHERS[other])
    assert len(set(mine)) == len(KINDS) and mine == others
    if torch.backends.mkl.is_available() and "MKL_CBWR" in OTHERS[other]:
        assert control != its

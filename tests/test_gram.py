"""Algebra of small matrices beside torch's."""

from functools import partial

import pytest
import torch
from conftest import rejects

from runner.core.gram import eigen, gram, inverse, inverse_root, norm, small_product, together

DOUBLE = torch.float64
R, K = 3, 3


@pytest.mark.parametrize("r", [1, 2, 3, 4, 7, 16, 64])
def test_eigenvalues_and_roots(r):
    """Graded over six orders of magnitude; a matrix that is not finite in one run is in no other, to the bit."""
    g = torch.Generator().manual_seed(r)
    X = torch.randn(4, r, 2 * r, generator=g, dtype=DOUBLE) * torch.logspace(0, -6, r, dtype=DOUBLE)[:, None]
    S = X @ X.mT
    values, V = eigen(S)
    size = torch.linalg.eigvalsh(S).amax(1)[:, None, None]

    def check(values, V):
        near = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
        near(values.sort(1)[0] / size[:, 0], torch.linalg.eigvalsh(S) / size[:, 0])
        near(V @ V.mT, torch.eye(r, dtype=DOUBLE).expand(4, r, r))
        near((V.mT @ torch.diag_embed(values) @ V) / size, S / size)

    check(values, V)
    rejects(check, values * (1 + 1e-9), V)
    rejects(check, values, V * (1 + 1e-9))
    if r > 1:
        rejects(check, values, V.flip(1))
    well = S + size * torch.eye(r, dtype=DOUBLE)
    half = inverse_root(well)
    torch.testing.assert_close(half @ half @ well, torch.eye(r, dtype=DOUBLE).expand(4, r, r), rtol=0, atol=1e-11)
    broken = S.clone()
    broken[1, 0, 0] = torch.nan
    others, [values_of_others, V_of_others] = [0, 2, 3], eigen(broken)
    assert torch.equal(values_of_others[others], values[others]) and torch.equal(V_of_others[others], V[others])
    assert torch.equal(torch.cat([eigen(S[k : k + 1])[1] for k in range(4)]), V)


def test_what_is_singular_is_left_out():
    S = torch.diag_embed(torch.tensor([[4.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=DOUBLE))
    assert torch.equal(inverse_root(S), torch.diag_embed(torch.tensor([[0.5, 1.0, 0.0], [0, 0, 0]], dtype=DOUBLE)))
    several = [S, torch.eye(2, dtype=DOUBLE).expand(2, 2, 2), 4 * S]
    for together_, alone in zip(together(inverse_root, several), map(inverse_root, several), strict=True):
        assert torch.equal(together_, alone)


def test_what_they_are_made_of():
    g = torch.Generator().manual_seed(1)
    X, Y = (torch.randn(K, r, 40, generator=g, dtype=DOUBLE) for r in (R, 11))
    S = gram(X) + 1e-3 * torch.eye(R, dtype=DOUBLE)
    near = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)
    for found, expected in (
        (gram(X), X @ X.mT),
        (gram(Y, X), Y @ X.mT),
        (inverse(S), torch.linalg.inv(S)),
        (small_product(S, X), S @ X),
        (norm(X), X.flatten(1).norm(dim=1)),
    ):
        near(found, expected)
        rejects(near, found, expected * (1 + 1e-9))

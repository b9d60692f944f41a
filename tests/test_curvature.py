"""Where a loss rises along a line, and the largest eigenvalue of a matrix: against closed forms and whole decompositions."""

import math

import pytest
import torch
from conftest import rejects

from runner.training.measure.curvature import critical_multiple, top_eigenvalue, top_of

F64 = torch.float64


def test_the_critical_multiple_of_a_quadratic_loss_is_twice_slope_over_curvature():
    expected = 10.0 ** torch.arange(-5, 7, dtype=F64)
    slope, begin = -torch.ones_like(expected), torch.ones_like(expected)
    curvature, start, update = 2 / expected, torch.zeros(12, 1, dtype=F64), torch.ones(12, 1, dtype=F64)

    def losses(place):
        return 3 + slope * place[:, 0] + curvature / 2 * place[:, 0] ** 2

    found = critical_multiple(losses, start, update, slope, begin, 8)[0]

    def check(found):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)

    check(found)
    rejects(check, found * 1.001)


def test_the_critical_multiple_where_there_is_none_and_at_a_cliff():
    names = ["a cliff", "uphill", "no update", "never", "no number beyond"]
    slope = torch.tensor([-0.1, 1.0, 0.0, -1e-3, -0.1], dtype=F64)

    def losses(place):
        c = place[:, 0]
        cliff, nowhere = torch.where(c < 5, 1 - c / 10, 1e30), torch.where(c < 7, 1 - c / 10, torch.nan)
        return torch.stack([cliff[0], 1 + c[1], c[2] * 0 + 1, 1 - 1e-3 * c[3], nowhere[4]])

    zero, one = torch.zeros(5, 1, dtype=F64), torch.ones(5, 1, dtype=F64)
    found = critical_multiple(losses, zero, one, slope, torch.ones(5, dtype=F64), 8)[0]
    found = dict(zip(names, found.tolist(), strict=True))
    assert found["uphill"] == 0 and math.isnan(found["no update"]) and math.isnan(found["never"])
    assert found["a cliff"] == pytest.approx(5, rel=0.5) and found["no number beyond"] == pytest.approx(7, rel=0.5)


def symmetric(*shape):
    M = torch.randn(*shape, shape[-1], generator=torch.Generator().manual_seed(0), dtype=F64)
    return M + M.mT


SPECTRA = {
    "of any signs": symmetric(3, 10),
    "all negative": -symmetric(3, 10) @ symmetric(3, 10) - torch.eye(10, dtype=F64),
    "of rank one": torch.ones(3, 10, 10, dtype=F64),
    "one eigenvalue": 2 * torch.eye(10, dtype=F64).repeat(3, 1, 1),
    "of all sizes": 10.0 ** torch.tensor([-8.0, 0.0, 8.0], dtype=F64)[:, None, None] * symmetric(3, 10),
}


@pytest.mark.parametrize("M", SPECTRA.values(), ids=SPECTRA)
def test_lanczos_finds_the_largest_eigenvalue_and_its_direction(M):
    start = torch.randn(3, 10, generator=torch.Generator().manual_seed(1), dtype=F64)
    expected = torch.linalg.eigvalsh(M)[:, -1]
    largest, v = top_eigenvalue(lambda v: (M @ v[:, :, None])[:, :, 0], start, 12)  # two more than there are directions

    def check(largest):
        torch.testing.assert_close(largest, expected, rtol=1e-9, atol=0)

    check(largest)
    rejects(check, largest * (1 + 1e-6))
    torch.testing.assert_close(
        (M @ v[:, :, None])[:, :, 0], largest[:, None] * v, rtol=0, atol=1e-6 * float(M.abs().max())
    )
    torch.testing.assert_close(v.square().sum(1), torch.ones(3, dtype=F64))
    for T in (M[:, :4, :4], -M[:, :1, :1]):
        torch.testing.assert_close(top_of(T)[0], torch.linalg.eigvalsh(T)[:, -1], rtol=1e-9, atol=1e-30)


def test_later_measurements_go_on_from_the_last_direction():
    """With two products each, over measurements of a matrix that stays, the eigenvalue comes out as with many."""
    M = symmetric(1, 40)
    expected, v = float(torch.linalg.eigvalsh(M)[0, -1]), torch.ones(1, 40, dtype=F64)
    for _ in range(40):
        largest, v = top_eigenvalue(lambda v: (M @ v[:, :, None])[:, :, 0], v, 2)
    assert float(largest) == pytest.approx(expected, rel=1e-3)
    once, _ = top_eigenvalue(lambda v: (M @ v[:, :, None])[:, :, 0], torch.ones(1, 40, dtype=F64), 2)
    assert float(once) < 0.9 * expected  # negative control: one alone is not enough

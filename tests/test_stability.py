"""When a run counts as diverged, by losses that are given."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import rejects

from runner.training.stability import Stability

# losses of steps 0 to 3 with max_ratio = 10 -> the step at which the run ends; None: it does not diverge
CASES = [
    ([1.0, 0.5, 0.2, 0.1], None),
    ([1.0, 10.0, 1.0, 10.0], None),  # at the bound
    ([1.0, math.nextafter(10.0, 11), 1.0, 1.0], 1),  # and above; that it comes back later does not count
    ([1.0, 1.0, 1.0, 11.0], 3),
    ([math.inf, 1.0, 1.0, 1.0], 0),
    ([math.nan, 1.0, 1.0, 1.0], 0),
    ([1.0, 1.0, math.nan, 1.0], 2),
    ([1e308, 1.0, math.inf, 1.0], 2),  # where the bound itself is infinite
    ([0.0, 0.0, 0.0, 0.0], None),  # nothing to learn
    ([0.0, 0.0, 1e-300, 0.0], 2),
    ([1.0, 0.0, 0.0, 0.0], None),
    ([-1.0, 1.0, 1.0, 1.0], 0),  # no loss is negative
]


def ends(losses: list[list[float]], max_ratio: float = 10.0) -> list[int | None]:
    """The end of each run of a stack; None for those that are alive."""
    config = SimpleNamespace(steps=3, stability=SimpleNamespace(max_ratio=max_ratio))
    stability = Stability([config] * len(losses), torch.device("cpu"), torch.float64)
    for step in range(4):
        stability.update(
            torch.tensor([step]),
            torch.arange(len(losses)),
            torch.tensor([of_run[step] for of_run in losses], dtype=torch.float64),
        )
    for alive, end in zip(stability.alive.tolist(), stability.ends.tolist(), strict=True):
        assert not alive or end == 3  # a run that lives ends with the last step
    return [
        None if alive else end for alive, end in zip(stability.alive.tolist(), stability.ends.tolist(), strict=True)
    ]


def are(found, expected):
    assert found == expected


@pytest.mark.parametrize(("losses", "end"), CASES, ids=str)
def test_where_a_run_ends(losses, end):
    are(ends([losses]), [end])
    rejects(are, ends([losses]), [3 if end is None else None])


def test_runs_of_a_stack_end_where_they_do_alone():
    losses, expected = map(list, zip(*CASES, strict=True))
    are(ends(losses), expected)
    rejects(are, ends(losses, max_ratio=11.0), expected)

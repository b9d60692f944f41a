"""Verdicts by their rules: on an estimate with its interval, on a comparison, and on the rates at which runs break down."""

import numpy as np
import pytest
from conftest import rejects
from grids import grid_of

from analysis.breakdown import breakdown_ratio, breaking_points, breaking_ratio, lowest_breaking
from analysis.claims import (
    DIRECTION,
    NEGLIGIBLE,
    NOT,
    REPRODUCED,
    UNKNOWN,
    Claim,
    exponent_verdict,
    ratio_claim,
    sign_verdict,
)
from analysis.scaling import START, Estimate


def estimate(value, spread=0.05):
    return Estimate(value, value - spread, value + spread)


@pytest.mark.parametrize(
    ("measured", "predicted", "rival", "verdict"),
    [
        (estimate(-0.5), -0.5, -1.0, REPRODUCED),
        (estimate(-0.74), -0.5, -1.0, REPRODUCED),  # within half the distance to the rival
        (estimate(-0.76), -0.5, -1.0, DIRECTION),
        (estimate(-0.7, spread=0.4), -0.5, -1.0, DIRECTION),  # cannot exclude the rival, but excludes 0
        (estimate(-0.3, spread=0.4), -0.5, -1.0, REPRODUCED),
        (estimate(-0.4, spread=0.8), -0.5, -1.0, UNKNOWN),  # holds both predictions, and 0
        (estimate(-0.06, spread=0.02), -0.5, -1.0, NOT),  # significant but negligible
        (estimate(0.0), -0.5, -1.0, NOT),
        (estimate(0.5), -0.5, -1.0, NOT),
        (estimate(0.1), 0.0, 0.5, REPRODUCED),
        (estimate(0.3), 0.0, 0.5, NOT),  # closer to the rival
        (estimate(-0.3), 0.0, 0.5, DIRECTION),  # an effect, away from the rival
        (estimate(0.2, spread=0.4), 0.0, 0.5, UNKNOWN),
        (Estimate(-0.3, -0.6, 0.1), 0.0, 0.5, NOT),  # neither within the band nor clear of 0
        (Estimate(np.nan, np.nan, np.nan), 0.0, 0.5, UNKNOWN),
        (Estimate(-0.5, np.nan, np.nan), -0.5, -1.0, UNKNOWN),
        (estimate(-0.75, spread=0.0), -0.5, -1.0, REPRODUCED),  # exactly half the distance, without any width
        (estimate(-1.0, spread=0.0), -0.5, -1.0, DIRECTION),
        (estimate(-NEGLIGIBLE, spread=0.0), -0.5, -1.0, NOT),
        (estimate(-1.01 * NEGLIGIBLE, spread=0.0), -0.5, -1.0, DIRECTION),
        (estimate(0.0, spread=0.0), 0.0, 0.5, REPRODUCED),
        (Estimate(-0.5, -1.0, -0.5), -0.5, -1.0, DIRECTION),  # an end on the rival does not exclude it
        (Estimate(0.0, 0.0, 0.5), 0.0, 0.5, UNKNOWN),  # holds both, by its ends
        (Estimate(0.01, 0.01, 0.5), 0.0, 0.5, NOT),  # but for the first
        (Estimate(0.0, 0.0, 0.49), 0.0, 0.5, REPRODUCED),
        (Estimate(0.1, -0.2, 0.6), 0.5, 0.0, UNKNOWN),
        (Estimate(0.2, -0.2, 0.4), 0.5, 0.0, NOT),
        (Estimate(-0.3, -0.4, -0.2), 0.5, 0.0, NOT),  # against it
    ],
)
def test_exponent_rule(measured, predicted, rival, verdict):
    assert exponent_verdict(measured, predicted, rival) == verdict


@pytest.mark.parametrize(
    ("values", "positive", "verdict"),
    [
        ([estimate(0.2), estimate(0.1)], True, REPRODUCED),
        ([estimate(0.2), estimate(0.01)], True, DIRECTION),
        ([estimate(0.2), estimate(-0.01)], True, NOT),
        ([estimate(-0.2)], False, REPRODUCED),
        ([estimate(-0.2)], True, NOT),
        ([estimate(0.2), Estimate(np.nan, np.nan, np.nan)], True, UNKNOWN),
        ([], True, UNKNOWN),
        ([Estimate(0.2, np.nan, np.nan)], True, UNKNOWN),
        ([Estimate(np.nan, 0.1, 0.3)], True, UNKNOWN),
        ([estimate(0.2, spread=0.0)], True, REPRODUCED),  # of no width
        ([estimate(0.0, spread=0.0)], True, NOT),
        ([Estimate(0.2, 0.0, 0.3)], True, DIRECTION),  # an end on zero is not on a side of it
        ([estimate(-0.2), estimate(-0.01)], False, DIRECTION),
        ([estimate(-0.2), estimate(0.01)], False, NOT),
    ],
)
def test_comparison_rule(values, positive, verdict):
    assert sign_verdict(values, positive) == verdict


def test_what_is_measured_is_told_with_its_interval():
    told = lambda *numbers: Claim("", "", "", "", "", *numbers, UNKNOWN).measured  # noqa: E731
    assert told(np.nan, np.nan, np.nan) == "–" and told(0.12345, np.nan, np.nan) == "0.123"
    assert told(0.5, 0.25, 2.0) == "0.5 [0.25, 2]"


def test_a_claim_on_ratios_shows_the_last_and_evaluates_all():
    claim = ratio_claim("9", "task", "text", "> 1", [estimate(-1.0), Estimate(*np.log([2.0, 1.5, 3.0]))])
    assert [claim.value, claim.low, claim.high] == pytest.approx([2.0, 1.5, 3.0]) and claim.verdict == NOT
    assert ratio_claim("9", "task", "text", "< 1", [estimate(-1.0)]).verdict == REPRODUCED


def runs(*cells, start=None):
    """A grid of one init a cell, at the rates 1, 2, 4, 16: a letter a run, `f`inished, `b`roken down, `.` missing."""
    losses = np.array([[{"f": 0.0, "b": np.inf, ".": np.nan}[run] for run in cell] for cell in cells])
    columns = {} if start is None else {START: np.exp(np.array(start)[:, None, :, None])}
    return grid_of(losses[:, None, :, None], columns=columns, lrs=[1.0, 2, 4, 16][: len(cells[0])])


@pytest.mark.parametrize(
    ("cell", "lowest", "side"),
    [
        ("ffbb", 4, 0),
        ("fbfb", 2, 0),  # the lowest
        ("bbbb", 1, -1),  # or below
        ("ffff", 64, 1),  # or above: a step of the grid's last is next
        ("fff.", 16, 1),  # the grid's own rate is
        ("ff..", 4, 1),
        (".fbb", 4, 0),
        (".bbb", 2, -1),
        ("f.bb", np.nan, None),  # it may have been 2
        ("fb.b", 2, 0),
        ("f.ff", np.nan, None),
        ("....", np.nan, None),
        ("f", np.nan, None),  # no step, no next rate
        ("b", 1, -1),
    ],
)
def test_the_lowest_rate_that_breaks_down(cell, lowest, side):
    logs, sides = lowest_breaking(runs(cell), "0")
    assert logs == pytest.approx(np.log([[lowest]]), nan_ok=True) and (side is None or sides.tolist() == [[side]])


@pytest.mark.parametrize(
    ("cell", "middle"),
    [
        ("ffbb", 8**0.5),
        ("fbfb", 2**0.5),  # the lowest
        ("bbbb", np.nan),  # or below
        ("ffff", np.nan),  # or above
        ("f.bb", np.nan),  # a factor of 4
        (".fbb", 8**0.5),
        ("fb.b", 2**0.5),
        ("....", np.nan),
    ],
)
def test_where_a_run_begins_to_break_down(cell, middle):
    """Between neighbours of its own, that are a factor of 2 apart."""
    assert np.exp(breaking_points(runs(cell), "0")) == pytest.approx(np.array([[middle]]), nan_ok=True)


@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [
        ("ffb.", "fb.b", 2.0),  # what one alone tried, and what it missed further above, does not matter
        ("fb..", ".fb.", 0.5),
        ("fffb", "ffb.", np.nan),  # one's is between 4 and 16
        ("ffff", "ffb.", np.nan),  # or beyond
    ],
)
def test_inits_that_were_tried_at_different_rates_are_compared_by_where_they_begin_to(a, b, ratio):
    assert np.exp(breaking_ratio(runs(a, b), "0", "1")) == pytest.approx(ratio, nan_ok=True)


def test_a_run_compared_by_its_held_out_loss_breaks_down_above_its_start():
    """The runs end at 0; one that began there too is not above it, and one whose start is unknown is none."""
    for start, expected in (
        ([1, 0, -1, -1], 4),
        ([1, 1, -1, 1], 4),
        ([1, np.nan, -1, 1], np.nan),
        ([1, -1, np.nan, 1], 2),
    ):
        logs, _ = lowest_breaking(runs("ffff", start=[start]), "0")
        assert logs == pytest.approx(np.log([[expected]]), nan_ok=True)
    logs, _ = lowest_breaking(runs("fbff", start=[[1, np.nan, 1, 1]]), "0")  # diverged, which needs no start
    assert np.exp(logs) == pytest.approx(2)
    logs, _ = lowest_breaking(runs("ffff", start=[[1, 1, -np.inf, 1]]), "0")  # began with a loss of 0
    assert np.exp(logs) == pytest.approx(4)


@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [
        ("fffb", "fbbb", 8),
        ("fbbb", "fffb", 1 / 8),
        ("ffff", "fffb", 4),  # the least that it can be
        ("fffb", "ffff", 1 / 4),
        ("fff.", "ffbb", 4),
        ("ffff", "ffff", np.nan),
        ("ffff", "fff.", np.nan),
        ("bbbb", "bbbb", np.nan),
        ("bbbb", "ffff", 1 / 64),
        ("ffbb", "ffbb", 1),
        ("....", "fbbb", np.nan),
        ("fbbb", "....", np.nan),
        ("b", "f", np.nan),
    ],
)
def test_the_ratio_of_rates_that_break_down(a, b, ratio):
    def check(ratio):
        assert np.exp(breakdown_ratio(runs(a, b), "0", "1")) == pytest.approx(ratio, nan_ok=True)

    check(ratio)
    rejects(check, 1.01 * ratio if np.isfinite(ratio) else 1.0)


@pytest.mark.parametrize(("known", "decided"), [(4, True), (3, True), (2, False), (1, False)])
def test_a_ratio_takes_the_majority_of_widths_and_seeds(known, decided):
    """Of two widths and two seeds, whose ratios are 8 where they are known."""
    grid = runs("fffb", "fbbb")
    losses = np.broadcast_to(grid.log_loss, (2, 2, 4, 2)).copy()
    for width, seed in [(0, 0), (0, 1), (1, 0), (1, 1)][known:]:
        losses[:, width, :, seed] = 0.0
    ratio = breakdown_ratio(grid_of(losses, widths=(1, 2), lrs=grid.lrs), "0", "1")
    assert ratio == pytest.approx(np.log(8)) if decided else np.isnan(ratio)

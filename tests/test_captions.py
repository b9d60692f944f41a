"""What captions and titles tell, of numbers small enough to work them out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from grids import curve, grid_of
from matplotlib.figure import Figure
from synthetic import sweep

from analysis.figures import _caption, _curves, _message
from analysis.grid import Grid
from analysis.scaling import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "0.012"),
        (1.26, "1.3"),
        (126.0, "130"),
        (1.0e5, "100000"),
        (9.99e6, "10000000"),
        (1e7, "1e+07"),
        (1.2e-5, "1.2e-05"),
        (0, "0"),
    ],
)
def test_numbers_have_two_digits(value, text):
    assert _caption.number(value) == text


def test_estimates_are_told_with_their_intervals():
    assert _caption.power(Estimate(-0.754, -0.8, -0.704)) == "n^-0.75 [-0.80, -0.70]"
    assert _caption.power(Estimate(0.5, np.nan, np.nan), "r") == "r^0.50"
    assert _caption.interval(Estimate(1.0, 0.5, 2.0)) == " [0.5, 2]"
    assert _caption.interval(Estimate(1.0, np.nan, 2.0)) == _caption.interval(Estimate(1.0, 0.5, np.nan)) == ""
    assert _caption.ratio(Estimate(*np.log([4.0, 2.0, 8.0]))) == "4 [2, 8]"
    assert _caption.ratio(Estimate(np.log(4.0), np.nan, np.nan)) == "4"


def test_words_for_lists_and_counts():
    assert [_caption.listed("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert [_caption.counted(n, "seed") for n in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
    assert _caption.joined("A.", "Bars are.") == "A; bars are." and _caption.joined("", "B.") == "B."
    assert _caption.lines("a b.", "", "δ1 is.") == "A b.\nδ1 is."


def of_tasks(**seeds):
    """A table with so many seeds of each task, at widths 1 to 9 (or 1 and 8)."""
    parts = [
        pd.DataFrame(
            {
                "task.name": task,
                "seed": np.arange(n),
                "task.width": np.arange(n) + 1,
                "step": 20,
                "optimizer.name": "adamw",
            }
        )
        for task, n in seeds.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_what_runs_are_of():
    frame = of_tasks(a=9, b=4)
    assert _caption.seeds(frame) == 4 and _caption.seeds(frame[frame["task.name"] == "a"]) == 9
    of_a, of_b = (
        f"{who}, 20 steps of AdamW" for who in ("n = 1 to 9 (9 of them), 9 seeds", "n = 1, 2, 3 and 4, 4 seeds")
    )
    assert _caption.runs(frame) == f"Runs: a, widths {of_a}; b, widths {of_b}."
    assert _caption.runs(of_tasks(a=8)).startswith("Runs: a, widths n = 1, 2, 3, 4, 5, 6, 7 and 8, 8 seeds")
    assert (
        _caption.short(frame, "x", "") == "a, b, n = 1…9, 4 seeds, x"
        and _caption.short(of_tasks(a=1)) == "a, n = 1, 1 seed"
    )
    few, enough, one = of_tasks(a=4), of_tasks(a=5), of_tasks(a=1)
    assert _caption.bars(few).startswith("There is no interval: of 4 seeds") and "95%" in _caption.bars(enough)
    assert _caption.short_bars(few) == "" and _caption.short_bars(enough) == "95% intervals"
    assert "no band" in _caption.bands(one) and "range" in _caption.bands(few)
    assert _caption.short_bands(one) == "" and _caption.short_bands(few) != ""


@pytest.mark.parametrize("nats", [False, True])
def test_a_contest_is_between_the_two_that_end_lowest(nats):
    """Of three inits: log losses 1, 0 and 3 at the middle rate, at parabolas with their vertices there."""
    grid = grid_of([curve(2, 1, 2, 9, seeds=5), curve(9, 1, 0, 1, seeds=5), curve(4, 3, 4, 9, seeds=5)])
    found = _message.contest(grid, 1, nats)
    gap = np.e - 1 if nats else 1.0
    assert found.inits == ["1", "0"] and found.lrs == pytest.approx([4, 2]) and found.losses == pytest.approx([1, np.e])
    assert found.gap == Estimate(*[pytest.approx(gap)] * 3) and found.rates.value == pytest.approx(-np.log(2))
    assert found.decided and not found.edges and found.title.endswith(",\nat a higher rate")
    assert f"ends {'1.7 nats' if nats else '2.7 times'} lower" in found.title
    assert f"{'1.7 [1.7, 1.7] nats lower' if nats else 'a factor of 2.7 [2.7, 2.7]'}." in found.sentence
    grid.log_loss[0] = curve(1, 2, 9, 9, seeds=5)  # at the edge
    grid = replace(grid)
    found = _message.contest(grid, 1, nats)
    assert found.edges == ["0"] and np.isnan([found.gap.value, found.rates.value]).all() and not found.decided
    assert "at the grid's edge" in found.sentence and "Open" in found.title


def test_contests_without_two_inits_that_finish():
    dead = curve(np.inf, np.inf, np.inf)
    none, one = (_message.contest(grid_of([dead, other]), 1, False) for other in (dead, curve(2, 1, 2)))
    assert none.inits == [] and "no init has a learning rate" in none.sentence and "all seeds finish" in none.title
    assert one.inits == ["1"] and "no other init" in one.sentence and one.title == "Only 1 was tried, or finished"


def test_seeds_of_one_mind_decide_and_others_do_not():
    """Differences of 1 in all seeds; of 1, 1, 1, 1 and -3."""
    ahead = np.repeat(curve(2, 0, 2), 5, axis=2)
    behind = ahead + 1
    assert _message.contest(grid_of([ahead, behind]), 1, False).decided
    behind[..., 4] -= 3.9
    found = _message.contest(grid_of([ahead, behind]), 1, False)
    assert not found.decided and "do not decide" in found.title and "do not decide" in found.sentence
    few = _message.contest(grid_of([ahead[..., :4], ahead[..., :4] + 1]), 1, False)
    assert not few.decided and "in the mean of 4 seeds" in few.sentence and "in the mean" in few.title


@pytest.mark.parametrize(
    ("low", "high", "direction"), [(0, 1, 0), (-1, 0, 0), (0.1, 1, 1), (-1, -0.1, -1), (np.nan, np.nan, 0)]
)
def test_an_interval_that_ends_on_zero_decides_nothing(low, high, direction):
    bounds = Estimate(0.0, low, high)
    assert _message.Trend("0", [], bounds, 2).direction == direction
    contest = _message.Contest(["0", "1"], 1, [1.0, 2.0], [1.0, 1.0], bounds, bounds, [], 5, False)
    assert contest.decided == (direction == 1)
    decided = replace(contest, gap=Estimate(1.0, 1.0, 1.0))
    assert (
        decided.title
        == "0 ends 2.7 times lower" + {1: ",\nat a lower rate", -1: ",\nat a higher rate", 0: ""}[direction]
    )


def test_slopes_of_two_and_more_widths():
    widths, logs = np.array([2.0, 4, 8, 16]), np.array([np.nan, 1.0, np.nan, 3.0])
    assert _message.line(widths, logs) == pytest.approx(2 / np.log(4))
    assert np.isnan(_message.line(widths, np.where(widths < 9, logs, np.nan)))
    assert _message.line(widths, 3 * np.log(widths) + [1, -1, -1, 1]) == pytest.approx(3.0)


def of_widths(*logs):
    """A measure of one value a width, the same for all seeds and inits but for its sign."""
    return lambda grid, init: np.array(logs) * (-1) ** int(init)


def test_trends_tell_ends_and_slope():
    grid = grid_of(np.zeros((2, 4, 3, 5)), widths=(1, 2, 4, 8))
    measure = of_widths(np.nan, np.log(2), np.log(4), np.log(8))
    found = _message.trend(grid, "0", measure)
    assert found.ends == [(2, pytest.approx(2)), (8, pytest.approx(8))] and found.count == 3 and found.direction == 1
    assert found.phrase("it") == "it of 0 rises from 2 at n = 2 to 8 at n = 8 (n^1.00 [1.00, 1.00])"
    falls = _message.trend(grid, "1", of_widths(np.nan, np.log(2), np.nan, np.log(8)))
    assert falls.direction == -1 and falls.phrase("it", "r") == "it of 1 falls from 0.5 at r = 2 to 0.13 at r = 8"
    one, none = (_message.trend(grid, "0", of_widths(*logs, np.nan, np.nan, np.nan)) for logs in ([0.0], [np.nan]))
    assert one.phrase("it").startswith("it of 0 is 1 at n = 1, the only one") and np.isnan(one.slope.value)
    assert none.phrase("it") == "it of 0 has no value off the grid's edge" and none.direction == one.direction == 0
    assert _message.steeper(grid, ["0", "1"], measure).value == pytest.approx(2.0)  # 1 - (-1)
    assert _message.steeper(grid, ["1", "0"], measure).value == pytest.approx(-2.0)


def steps(**values):
    """A run's table: a list of values a column, by step 0, 1, 2, …"""
    return pd.DataFrame(values).rename_axis("step").reset_index()


def test_a_size_is_the_geometric_mean_at_the_last_step_that_measured_it():
    runs = pd.concat([steps(x=[1.0, 2, 4, np.nan]), steps(x=[1.0, 8, 16, np.nan])])
    assert _curves._middle(runs, "x", None) == pytest.approx(8) and _curves._middle(runs, "x", 1) == pytest.approx(4)
    assert _curves._middle(runs, "x", 9) == pytest.approx(8)
    assert np.isnan(_curves._middle(runs.assign(x=np.nan), "x", None))
    assert np.isnan(_curves._middle(runs[runs["step"] > 1], "x", 1))  # nothing was measured up to there
    assert _curves._middle(runs.assign(x=[0, 0, 0, 0] * 2), "x", None) == 0


def test_a_curve_leaves_out_steps_that_a_seed_lacks():
    panel = Figure().subplots()
    runs = pd.concat([steps(x=[0.0, 2, 4, 5]), steps(x=[1.0, 8, 16, np.nan]), steps(x=[1.0, 4, 1, 0])])
    _curves.draw(panel, runs, "x", "black", "-", "it")
    [line], [band] = panel.lines, panel.collections
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata() == pytest.approx([4, 4])
    assert band.get_datalim(panel.transData).extents.tolist() == [1, 1, 2, 16]  # from the lowest seed to the highest


def test_sizes_at_the_end_are_told_of_inits_that_have_them_all():
    frame = sweep(widths=(128,), noise=0.0)
    grid, size = Grid.of(frame), {"Z_A": "feature/Z_A"}
    assert _curves.at_end(frame, grid, size) == (
        "At n = 128 and the last step, Z_A is 1 under Init[A]; 1 under Init[B], each at its best rate."
    )
    wide = sweep(widths=(128, 512), noise=0.0)
    assert "At n = 512 and the last step, Z_A is 2 under Init[A]" in _curves.at_end(wide, Grid.of(wide), size)
    both = size | {"δ1": "feature/delta_1"}
    assert "and step 10, Z_A and δ1 are 1 and 1 under Init[A]; 1 and 1" in _curves.at_end(frame, grid, both, step=10)
    frame.loc[frame["init.name"] == "gaussian_A", "feature/delta_1"] = np.nan
    assert "are 1 and 1 under Init[B], each" in _curves.at_end(frame, grid, both)
    frame["feature/delta_1"] = np.nan
    assert _curves.at_end(frame, grid, both).endswith(
        "no run has a learning rate at which Z_A and δ1 could be measured."
    )


def test_gradients_that_are_exactly_zero():
    runs = {"gaussian_A": (0.0, 1.0), "gaussian_B": (1.0, 0.0), "zero": (0.0, 0.0), "other": (1.0, 1.0)}
    rows = [{"init.name": i, "step": 0, "grad/A": a, "grad/B": b} for i, (a, b) in runs.items() for _ in range(2)]
    frame = pd.DataFrame(rows)
    said = "the gradient of A under Init[A], the gradient of B under Init[B] and both gradients under A = B = 0 are exactly zero."
    assert _curves.zeros(frame) == f"At step 0, in all runs, {said}"
    frame.loc[[1, 3, 4], ["grad/A", "grad/B"]] = 1e-9  # one run of each is enough
    assert _curves.zeros(frame) == "At step 0 neither gradient is exactly zero in all runs of an init."
    assert "is exactly zero" in _curves.zeros(pd.DataFrame(rows[:2]).assign(step=[0, 0]))

"""What figures draw and mark, on grids small enough to work the numbers out by hand."""

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from grids import curve, grid_of
from matplotlib.figure import Figure
from synthetic import LRS, first_steps, sweep
from synthetic_variants import directions, ratios

from analysis import figures
from analysis.figures import _message, _rows, _scaling, _sensitivity, dora_directions, init_zoo, variants
from analysis.scaling import START, Estimate, best_lrs

NOTHING = Estimate(np.nan, np.nan, np.nan)


def test_best_losses_are_those_off_the_edge():
    grid = grid_of([[curve(3, 1, 3)[0], curve(0.5, 2, 3)[0]]], widths=(1, 2))
    assert _message.best_losses(grid, "0") == pytest.approx([1, np.nan], nan_ok=True)
    assert np.array([_rows.best_loss(grid, "0"), _rows.best_rate(grid, "0")]).ravel() == pytest.approx([1, np.log(2)])


def test_inits_without_a_loss_come_last():
    """Sorted as they are, numbers and nan would stand in no order."""
    losses = [curve(v + 1, v, v + 1) for v in (3, np.inf, 1, np.inf, 2)]
    assert _rows.lowest_first(grid_of(losses)) == ["2", "4", "0", "1", "3"]


def test_the_frozen_model_stands_at_the_mean_of_what_seeds_hold_out():
    frame = pd.DataFrame({"step": [0, 0, 5, 0, 0], "task.width": [1, 1, 1, 2, 4], "eval/loss": [2.0, 4, 9, 5, np.nan]})
    assert _sensitivity.frozen(frame) == {1: 3.0, 2: 5.0}


def test_a_best_rate_at_the_edge_is_none_that_is_missing():
    dead = curve(np.inf, np.inf, np.inf)
    grid = grid_of([curve(1, 2, 3), curve(2, 1, 3), dead])
    assert [_sensitivity.at_edge(grid, init, 1) for init in grid.inits] == [True, False, False]
    rates = _sensitivity.best_rates(grid)
    assert rates["0", 1].value == 0 and np.isnan(rates["2", 1].value)


@pytest.mark.parametrize(
    ("bounds", "bar"), [((1, 4), [[1, 4]]), ((3, 4), [[2, 4]]), ((1, 1.5), [[1, 2]]), ((np.nan, np.nan), [])]
)
def test_the_best_rate_has_a_bar_from_it_to_the_ends_of_its_interval(bounds, bar):
    panel = Figure().subplots()
    _sensitivity._best(panel, grid_of([curve(2, 1, 2)]), "0", 1, Estimate(*np.log([2, *bounds])))
    [container] = panel.containers
    drawn = [segment[:, 0].tolist() for bars in container[2] for segment in bars.get_segments()]
    assert drawn == [pytest.approx(ends) for ends in bar]
    assert container[0].get_xydata().tolist() == [[pytest.approx(2), pytest.approx(np.e)]]


def broken(losses, ceiling=None):
    """The rates drawn as broken down."""
    grid, panel = grid_of([losses]), Figure().subplots()
    starts = None if ceiling is None else {1: np.exp(ceiling)}
    said = _sensitivity.curves(panel, grid, 1, _sensitivity.best_rates(grid), starts)
    drawn = [line for line in panel.lines if "broken down" in str(line.get_label())]
    assert said == bool(drawn)
    return drawn[0].get_xdata().tolist() if drawn else []


def test_a_rate_is_broken_down_where_a_seed_diverged_or_the_mean_ends_above_the_frozen_model():
    losses = np.concatenate([curve(1, 0, 1, 2, 9), curve(1, 0, 1, 4, np.inf)], axis=2)
    assert broken(losses) == [16] and broken(losses[:, :4]) == []
    assert broken(losses, ceiling=2.9) == [8, 16] and broken(losses, ceiling=3.1) == [16]
    assert broken(losses[:, :4], ceiling=0.9) == [1, 4, 8]


def test_panels_end_just_above_the_frozen_model():
    panel, grid = Figure().subplots(), grid_of([curve(np.log(2), np.log(9), np.inf)])
    _sensitivity.value_axes([panel], grid, {1: 4.0, 2: 12.0})
    assert panel.get_ylim() == pytest.approx((2 - 0.08 * 10, 12 + 0.15 * 10))
    for starts in ({}, {1: 1.0}):  # nothing ends below
        panel = Figure().subplots()
        _sensitivity.value_axes([panel], grid, starts)
        assert panel.get_ylim() == (0, 1)
    _sensitivity.value_axes([panel := Figure().subplots()], grid_of([curve(np.inf)]), None)
    assert [text.get_text() for text in panel.texts] == ["all runs diverged"]


def test_how_many_widths_the_seeds_decide():
    frame = sweep(widths=(128, 256, 512))
    assert _sensitivity.message(frame, False)[1] == (
        "The seeds decide which ends lower at 3 of 3 widths: Init[A] at n = 128, 256 and 512."
    )
    few = sweep(widths=(128, 256), seeds=(0, 1))
    assert _sensitivity.message(few, False)[1].endswith("at none of the 2 widths.")
    assert len(_sensitivity.message(sweep(widths=(128,)), False)) == 1


def test_the_curve_and_its_band_are_of_seeds_that_finished():
    panel = Figure().subplots()
    losses = np.concatenate([curve(1, 0, 1, np.inf), curve(3, 2.5, np.inf, np.inf)], axis=2)
    _sensitivity._curve(panel, grid_of([losses]), "0", 1)
    [line], [band] = panel.lines, panel.collections
    assert line.get_xdata().tolist() == [1, 2, 4] and line.get_ydata() == pytest.approx(np.exp([2, 1.25, 1]))
    [path] = band.get_paths()
    corners = {(x, round(float(np.log(y)), 9)) for x, y in path.vertices}
    assert corners == {(1, 1), (1, 3), (2, 0), (2, 2.5), (4, 1)}


def test_points_stand_with_their_intervals_and_a_fit():
    """Log losses 0, 1 and 2 at widths 1, 2 and 4, with seeds around them."""
    seeds = np.array([-0.4, -0.2, 0, 0.2, 0.4])
    losses = np.array([[[[1.0], [0], [1]]]]) + np.arange(3)[None, :, None, None] + seeds
    grid = grid_of(losses, widths=(1, 2, 4))
    *points, slope = _scaling._measured(grid, "0", _message.best_losses)
    assert [p.value for p in points] == pytest.approx([0, 1, 2]) and slope.value == pytest.approx(1 / np.log(2))
    assert _scaling._fit(slope, "n") == "$n^{1.44}$ [1.44, 1.44]" and _scaling._fit(NOTHING, "n") == ""
    assert _scaling._fit(Estimate(0.5, np.nan, np.nan), "r") == "$r^{0.50}$"
    panel = Figure().subplots()
    _scaling.against_width(panel, grid, {"0": 0.5}, _message.best_losses)
    [bars] = panel.containers
    segments = [segment[:, 1] for segment in bars[2][0].get_segments()]
    expected = [np.exp([p.low, p.high]) for p in points]
    assert np.allclose(segments, expected) and np.ptp(expected[0]) > 0.1
    fit, theory = (
        line.get_ydata() for line in panel.lines if len(line.get_xdata()) == 3 and line.get_linestyle() != "None"
    )
    assert np.allclose(fit, np.exp([0, 1, 2])) and np.allclose(np.diff(np.log(theory)), 0.5 * np.log(2))
    assert np.log(theory).mean() == pytest.approx(1)  # through the middle of the points


def test_a_value_outside_its_interval_has_a_bar_on_one_side():
    """Of a measure that is 2 on the sample and 0 or 4 on all resamples."""
    grid = grid_of(np.zeros((1, 3, 3, 5)), widths=(1, 2, 4))
    for resampled, bar in ((0.0, [0, 2]), (4.0, [2, 4])):
        measure = lambda g, _, r=resampled: np.full(3, 2.0 if g is grid else r)  # noqa: E731
        panel = Figure().subplots()
        _scaling.against_width(panel, grid, {}, measure)
        [bars] = panel.containers
        assert np.log([s[:, 1] for s in bars[2][0].get_segments()]) == pytest.approx(np.array([bar] * 3), abs=1e-9)


def test_rows_stand_from_the_top_half_a_row_from_the_edges():
    panel = Figure().subplots()
    _rows.rows(panel, ["a", "b", "c"])
    assert panel.get_ylim() == (2.5, -0.5) and [t.get_text() for t in panel.get_yticklabels()] == ["a", "b", "c"]


def test_an_axis_of_one_value_is_open_on_either_side():
    for values, limits in (([4.0], (2, 8)), ([2.0, 4.0], None), ([], None)):
        panel = Figure().subplots()
        for value in values:
            panel.errorbar(value, 0)
        _rows.log_x(panel, "it")
        low, high = panel.get_xlim()
        assert panel.get_xscale() == ("log" if values else "linear") and (not limits or (low, high) == limits)
        assert bool(values) or [t.get_text() for t in panel.texts] == ["no data"]
        assert len(values) < 2 or (1.5 < low < 2 and 4 < high < 5)  # matplotlib's own margins


def test_best_rates_that_are_not_fitted_are_drawn_hollow():
    grid = grid_of([[curve(3, 1, 3)[0], curve(1, 2, 3)[0]], [curve(3, 1, 3)[0]] * 2], widths=(1, 2))
    panel = Figure().subplots()
    assert _scaling.not_fitted(panel, grid, best_lrs, " (why)") and len(panel.lines) == 1
    assert panel.lines[0].get_ydata() == pytest.approx([np.nan, 1], nan_ok=True)
    assert panel.get_legend().get_texts()[0].get_text() == "0, not fitted (why)"
    panel = Figure().subplots()
    assert not _scaling.not_fitted(panel, grid_of(grid.log_loss[1:], (1, 2)), best_lrs) and not panel.lines


def test_dots_have_bars_where_there_is_an_interval():
    panel = Figure().subplots()
    estimates = [Estimate(*np.log([4.0, 2.0, 8.0])), NOTHING, Estimate(np.log(3.0), np.nan, np.nan)]
    _rows.dots(panel, estimates, ["k"] * 3, [False, False, True], offset=0.1)
    assert [container[0].get_xydata().tolist() for container in panel.containers] == [
        [[pytest.approx(4), 0.1]],
        [[pytest.approx(3), 2.1]],
    ]
    assert [len(container[2]) for container in panel.containers] == [1, 0]
    assert panel.containers[0][2][0].get_segments()[0][:, 0] == pytest.approx([2, 8])
    assert [container[0].get_fillstyle() for container in panel.containers] == ["full", "none"]


@pytest.mark.parametrize(
    ("logs", "low", "high"),
    [
        ([4, 2, 0, 1, 9], 4 * 2 ** -(np.log(1.5) / 2), 4 * 2 ** np.log(1.5)),  # by line, to 0.405 above the best
        ([0.3, 0.2, 0, 0.1, 0.4], 1, 16),  # all are good
        ([np.inf, 0.2, 0, np.nan, 0.1], 2, 4),  # up to what broke down, or is missing
        ([0, 9, 0.1, 0.1, 9], 1, 2 ** (np.log(1.5) / 9)),  # around the best alone
        ([np.inf] * 5, np.nan, np.nan),
    ],
)
def test_the_band_of_good_rates(logs, low, high):
    def check(low, high):
        assert np.exp(init_zoo.band(grid_of([curve(*logs)]), "0")) == pytest.approx((low, high), nan_ok=True)

    check(low, high)
    rejects(check, low, 1.01 * high if np.isfinite(high) else 1.0)


def test_the_band_is_in_nats_where_runs_are_compared_by_their_held_out_loss():
    grid = grid_of([curve(*np.log([1.2, 1, 1.04, 1.2]))], columns={START: np.ones((1, 1, 4, 1))})
    low, high = init_zoo.band(grid, "0")
    assert high == pytest.approx(np.log(4) + np.log(2) * np.log(1.05 / 1.04) / np.log(1.2 / 1.04))
    assert low == pytest.approx(np.log(2) - np.log(2) * np.log(1.05) / np.log(1.2))


def test_the_loss_after_one_step_is_over_the_mean_of_inits_that_have_one():
    columns = {"first": np.exp(np.array([curve(9, 1, 9), curve(9, 3, 9), curve(9, 5, 9)]))}
    grid = grid_of([curve(1, 0, 1), curve(1, 0, 1), curve(np.inf, np.inf, np.inf)], columns=columns)
    assert init_zoo._against_mean(grid, grid.inits) == pytest.approx([-1, 1, np.nan], nan_ok=True)
    assert np.isnan(init_zoo._against_mean(grid, ["2"])).all()


def test_the_rate_that_breaks_down_is_a_mean_of_logs_and_hollow_where_it_is_a_bound():
    finished, breaks = curve(0, 0, 0)[..., 0], curve(0, np.inf, np.inf)[..., 0]
    grid = grid_of([np.stack(seeds, axis=-1) for seeds in ([breaks, breaks], [breaks, finished], [finished, finished])])
    assert [variants._edge(grid, init) for init in "012"] == [pytest.approx(np.log(x)) for x in (2, 4, 8)]
    assert [variants._open(variants._edge, grid, init) for init in "012"] == [False, True, True]
    assert variants._open(_rows.best_rate, grid, "0")


def test_a_correlation_that_cannot_be_computed_is_not_a_number():
    frame = directions()
    panels = figures.draw("dora_directions", [frame[frame["adapter.name"] == "lora"]]).axes
    assert panels[1].get_title() == "DoRA, Init[A]\nno correlation can be computed"
    one_layer = frame[frame["layer"] == frame["layer"].iloc[0]]
    one_step = one_layer[one_layer["step"] == one_layer["step"].max()]
    assert "could not be computed" in dora_directions.caption(one_step)
    assert dora_directions._told(Estimate(0.5, 0.25, 0.75)) == "correlation 0.50 [0.25, 0.75]"
    assert dora_directions._told(Estimate(0.5, np.nan, np.nan)) == "correlation 0.50"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_has_no_tick(value):
    frame = first_steps()
    ticks = [
        figures.draw("first_step", [f]).axes[0].get_yticks() for f in (frame, frame.replace({"grad/B": {1.0: value}}))
    ]
    assert np.isfinite(ticks[1]).all() and np.array_equal(*ticks)


def test_ratios_of_language_models_are_drawn_by_their_held_out_loss():
    frame = ratios(noise=0.0, seeds=(0,), lrs=LRS[2:8])
    columns = {
        "task.name": "language_model",
        "summary.final_eval_loss": frame["summary.final_loss"],
        "summary.final_loss": 1.0,
    }
    drawn, toy = (figures.draw("lora_plus", [table]) for table in (frame.assign(**columns), frame))
    stars = [[line.get_xdata() for line in f.axes[0].lines if line.get_marker() == "*"] for f in (drawn, toy)]
    assert stars[0] == stars[1]
    labels = [[axes.get_xlabel() for axes in figure.axes[-2:]] for figure in (drawn, toy)]
    assert labels == [["final held-out loss"] * 2, ["final training loss"] * 2]

"""Curves against training step are those of the runs at the best learning rate."""

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from synthetic import sweep
from test_figure_contents import is_drawn

from analysis import figures, style
from analysis.grid import Grid

CURVES = [("feature_norms", 0, "feature/Z_A"), ("feature_norms", 4, "train/loss"), ("gradient_norms", 2, "grad/B")]


@pytest.mark.parametrize(("name", "panel", "column"), CURVES)
def test_curves_are_those_of_the_best_lr(name, panel, column):
    frame = sweep()
    axes = figures.draw(name, [frame]).axes[panel]
    lr = Grid.of(frame).best("gaussian_B", 128).grid_lr
    runs = frame[(frame["init.name"] == "gaussian_B") & (frame["task.width"] == 128) & (frame["optimizer.lr"] == lr)]
    expected = runs[runs[column] > 0].groupby("step")[column].apply(lambda v: np.exp(np.log(v).mean()))
    is_drawn(axes, expected)
    rejects(is_drawn, axes, 1.01 * expected)
    assert axes.get_ylabel() == style.COLUMNS[column]


def test_updates_are_relative_to_what_they_update():
    """One of the two factors is zero before the first update, and has no ratio there; the last row has no update."""
    frame = sweep()
    figure = figures.draw("relative_updates", [frame])
    lr = Grid.of(frame).best("gaussian_B", 128).grid_lr
    for panel, steps in (
        (figure.axes[0], [1, 10, 19]),
        (figure.axes[2], [0, 1, 10, 19]),
    ):  # of Init[B] A starts at zero
        expected = pd.Series(0.01 * lr, steps)
        is_drawn(panel, expected)
        rejects(is_drawn, panel, 1.01 * expected)
    assert figure.axes[0].get_ylabel() == style.COLUMNS["relative/A"]


def test_increments_draws_all_three():
    frame = sweep()
    panel = figures.draw("increments", [frame]).axes[1]
    lr = Grid.of(frame).best("gaussian_B", 1024).grid_lr
    runs = frame[(frame["init.name"] == "gaussian_B") & (frame["task.width"] == 1024) & (frame["optimizer.lr"] == lr)]
    for i in (1, 2, 3):
        column = f"feature/delta_{i}"
        is_drawn(panel, runs.dropna(subset=column).groupby("step")[column].apply(lambda v: np.exp(np.log(v).mean())))

"""The project in one picture: A learns features and B undertrains; A's inner feature grows with width and B's does not.

One row a task, so that the paper's toy stands beside the setting in which the theorem holds as stated.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures._scaling import against_width
from analysis.grid import Grid
from analysis.records import EARLY
from analysis.scaling import features, sizes
from analysis.theory import RATIO, exponents, setting

RECORDS = ("lr_vs_width", "width_exponents")
TITLES = (
    "“A learns features, B undertrains”\n" rf"$\delta_2/\delta_1$ at step {EARLY}",
    "… so that B ends higher\nbest loss of each init",
    "“A's $Z_A$ grows, B's does not”\nsize of $Z_A$ at the last step",
)


def figure(*frames: pd.DataFrame) -> Figure:
    fig, axes = style.subplots(len(frames), 3, height=2.9, width=1.05)
    for frame, (ratio, loss, inner) in zip(frames, axes, strict=True):
        grid, task = Grid.of(frame, features(frame)), setting(frame)
        against_width(ratio, grid, exponents(task, grid.inits, RATIO), lambda g, init: sizes(g, init, RATIO))
        against_width(loss, grid, {}, best_losses)
        predicted = exponents(task, grid.inits, "feature/Z_A")
        against_width(inner, grid, predicted, lambda g, init: sizes(g, init, "final/feature/Z_A"))
        ratio.set_ylabel(f"{frame['task.name'].iloc[0]}\n\n" r"$\delta_2/\delta_1$")
        loss.set_ylabel("final training loss")
        inner.set_ylabel("size of $Z_A$")
    for panel, title in zip(axes[0], TITLES, strict=True):
        panel.set_title(title)
    return fig


def best_losses(grid: Grid, init: str) -> np.ndarray:
    """(W,) mean over seeds of log final loss at the grid's best learning rate; nan where that is at the edge."""
    bests = [grid.best(init, width) for width in grid.widths]
    return np.array([np.nan if best.edge else best.log_loss for best in bests])

"""Best learning rate against width: fitted exponents with intervals beside the predicted ones."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures._scaling import against_width, not_fitted
from analysis.grid import Grid
from analysis.scaling import best_lrs
from analysis.theory import exponents, setting

RECORDS = ("lr_vs_width",)


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, [[axes]] = style.subplots(1, 1, height=3.2, width=0.6)
    against_width(axes, grid, exponents(setting(frame), grid.inits, "lr"), best_lrs)
    not_fitted(axes, grid, best_lrs, " (at the grid's edge)")
    axes.set_ylabel("best learning rate")
    axes.set_title(f"{frame['task.name'].iloc[0]}, {len(grid.seeds)} seeds, 95% intervals", loc="left")
    return fig

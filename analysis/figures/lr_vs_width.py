"""Best learning rate against width: fitted exponents with intervals beside the predicted ones."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures._scaling import against_width
from analysis.grid import Grid
from analysis.scaling import best_lrs
from analysis.theory import exponents, setting

RECORDS = ("lr_vs_width",)


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, [[axes]] = style.subplots(1, 1, height=3.2, width=0.6)
    against_width(axes, grid, exponents(setting(frame), grid.inits, "lr"), best_lrs)
    for init in grid.inits:
        look, bests = style.look(init), [grid.best(init, width) for width in grid.widths]
        flagged = [(width, best.grid_lr) for width, best in zip(grid.widths, bests, strict=True) if best.edge]
        if flagged:
            axes.plot(
                *zip(*flagged, strict=True), look.marker, color=look.color, fillstyle="none",
                label=f"{look.label}: at the grid's edge, not fitted",
            )  # fmt: skip
    axes.set_ylabel("best learning rate")
    style.legend_below(axes)
    axes.set_title(f"{frame['task.name'].iloc[0]}, {len(grid.seeds)} seeds, 95% intervals", loc="left")
    return fig

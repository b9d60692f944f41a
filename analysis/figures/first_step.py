"""Which factor receives a gradient at the first step: norms at step 0 against width, for every init."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.grid import Grid

RECORDS = ("first_step",)
SIDES = {"grad/A": ("#0072B2", "o", "-"), "grad/B": ("#E69F00", "s", "--")}


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, [axes] = style.subplots(1, len(grid.inits), height=2.2, sharey=True)
    start = frame[frame["step"] == 0]
    positive = start[list(SIDES)].to_numpy()
    smallest = positive[positive > 0].min(initial=1.0)
    for panel, init in zip(axes, grid.inits, strict=True):
        panel.set_yscale("symlog", linthresh=smallest / 3)
        runs = start[start["init.name"] == init].groupby("task.width")
        for column, (color, marker, line) in SIDES.items():
            low, middle, high = runs[column].min(), runs[column].mean(), runs[column].max()
            panel.fill_between(middle.index, low, high, color=color, alpha=0.2, linewidth=0)
            panel.plot(middle.index, middle, color=color, marker=marker, linestyle=line, label=style.COLUMNS[column])
        style.width_axis(panel, grid.widths)
        panel.set_title(style.look(init).label)
    axes[0].set_ylabel("gradient norm at step 0")
    axes[0].set_ylim(bottom=-smallest / 15)
    axes[-1].legend(loc="center")
    return fig

"""δ1, δ2, δ3 against step at the largest width, and δ2/δ1 a few steps in against width."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _curves
from analysis.figures._scaling import against_width
from analysis.grid import Grid
from analysis.records import EARLY
from analysis.scaling import features, sizes
from analysis.theory import RATIO, exponents, setting

RECORDS = ("lr_vs_width",)
DELTAS = {
    "feature/delta_1": ("#000000", "-"),
    "feature/delta_2": ("#0072B2", "--"),
    "feature/delta_3": ("#E69F00", ":"),
}


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame, features(frame))
    fig, [axes] = style.subplots(1, len(grid.inits) + 1, height=2.6)
    width = grid.widths[-1]
    for panel, init in zip(axes, grid.inits, strict=False):
        runs = _curves.at_best(frame, grid, init, width)
        for column, (color, line) in DELTAS.items():
            _curves.draw(panel, runs, column, color, line, style.COLUMNS[column])
        style.log_y(panel)
        panel.set(
            xlabel="step",
            title=f"{style.look(init).label}, $n = {width}$"
            + "\n(lr at the grid's edge)" * grid.best(init, width).edge,
        )
    limits = [panel.get_ylim() for panel in axes[:-1] if panel.get_yscale() == "log"]
    for panel in axes[:-1]:
        if panel.get_yscale() == "log":
            panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    axes[0].set_ylabel("size of the increment of $Z_B$")
    style.legend_below(axes[0])
    predicted = exponents(setting(frame), grid.inits, RATIO)
    against_width(axes[-1], grid, predicted, lambda g, init: sizes(g, init, RATIO))
    axes[-1].set_title(rf"$\delta_2/\delta_1$ at step {EARLY}")
    return fig

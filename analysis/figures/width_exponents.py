"""Measured exponents in n of the best learning rate and of every feature, with intervals, beside the predicted ones."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, theory
from analysis.grid import Grid
from analysis.records import BOTH_MOVED, EARLY
from analysis.scaling import Estimate, best_lrs, bootstrap, exponent, features, sizes, sizes_along

RECORDS = ("width_exponents",)
NAMES = {
    "lr": "best lr", "feature/Z_A": "$Z_A$", "feature/Z_B": "$Z_B$",
    "feature/delta_1": r"$\delta_1$", "feature/delta_2": r"$\delta_2$", "feature/delta_3": r"$\delta_3$",
}  # fmt: skip


def figure(frame: pd.DataFrame) -> Figure:
    grid, task = Grid.of(frame, features(frame)), theory.setting(frame)
    fig, [axes] = style.subplots(1, len(grid.inits), height=3.4, width=0.95, sharex=True, sharey=True)
    rows = np.arange(len(NAMES))
    for panel, init in zip(axes, grid.inits, strict=True):
        look, power = style.look(init), theory.exponent(task, init, "lr")
        tuned = bootstrap(grid, partial(_tuned, init=init))
        _dots(panel, tuned, rows - 0.2, look, "full", f"step {EARLY}, best lr of each width")
        if power is not None:
            rule = f"lr ∝ $n^{{{power:g}}}$"
            for y, fill, step, prefix in ((rows, "left", EARLY, ""), (rows + 0.2, "none", BOTH_MOVED, "start/")):
                along = bootstrap(grid, partial(_along, init=init, power=power, prefix=prefix))
                _dots(panel, along, y, look, fill, f"step {step}, {rule}")
            predicted = [theory.exponent(task, init, name) for name in NAMES]
            panel.vlines(predicted, rows - 0.36, rows + 0.36, color="black", linewidth=1.6, label="theory")
        panel.axvline(0, color="0.8", linewidth=0.6, zorder=0)
        panel.set(title=look.label, xlabel="exponent in $n$", yticks=rows, yticklabels=NAMES.values())
        style.legend_below(panel)
    axes[0].invert_yaxis()
    fig.suptitle(
        f"{frame['task.name'].iloc[0]}: n = {grid.widths[0]}…{grid.widths[-1]}, {len(grid.seeds)} seeds, 95% intervals",
        fontsize=8,
    )
    return fig


def _tuned(grid: Grid, init: str) -> np.ndarray:
    """Exponents of NAMES at the best learning rate of each width."""
    measured = [best_lrs(grid, init) if name == "lr" else sizes(grid, init, name) for name in NAMES]
    return np.array([exponent(grid.widths, logs) for logs in measured])


def _along(grid: Grid, init: str, power: float, prefix: str) -> np.ndarray:
    """Exponents of NAMES along lr ∝ n^power; nan for lr, about which a rule for lr leaves nothing to measure."""
    logs = [sizes_along(grid, init, prefix + name, power) for name in NAMES if name != "lr"]
    return np.array([np.nan] + [exponent(grid.widths, values) for values in logs])


def _dots(panel: Axes, estimates: list[Estimate], y: np.ndarray, look: style.Look, fill: str, label: str) -> None:
    values, low, high = (np.array([getattr(e, name) for e in estimates]) for name in ("value", "low", "high"))
    panel.errorbar(
        values, y, xerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)],
        color=look.color, marker=look.marker, fillstyle=fill, linestyle="none", elinewidth=1, capsize=2, label=label,
        markerfacecoloralt="white",
    )  # fmt: skip

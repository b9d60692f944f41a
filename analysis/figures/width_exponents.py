"""Measured exponents in n of the best learning rate and of every feature, with intervals, beside the predicted ones.

Below, what the theorem is about, against width: δ2/δ1, the best loss and Z_A.
"""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, theory
from analysis.figures import _caption
from analysis.figures._message import best_losses, label, trends
from analysis.figures._needs import OFF_THE_EDGE, THREE_WIDTHS
from analysis.figures._scaling import against_width
from analysis.grid import Grid
from analysis.scaling import Estimate, best_lrs, bootstrap, exponent, features, sizes, sizes_along
from analysis.tables.records import BOTH_MOVED, EARLY

RECORDS = ("width_exponents",)
NEEDS = (THREE_WIDTHS, OFF_THE_EDGE)
NAMES = {
    "lr": "best lr",
    "feature/Z_A": "$Z_A$",
    "feature/Z_B": "$Z_B$",
    "feature/delta_1": r"$\delta_1$",
    "feature/delta_2": r"$\delta_2$",
    "feature/delta_3": r"$\delta_3$",
}
FINAL_Z_A = partial(sizes, column="final/feature/Z_A")


def figure(frame: pd.DataFrame) -> Figure:
    grid, task = Grid.of(frame, features(frame)), theory.setting(frame)
    rows = -(-len(grid.inits) // 2)
    count = len(grid.inits)
    heights = (3.0 * rows, 2.75 + style.legend_room(count) + style.legend_room(count, 4))
    fig = Figure(figsize=(style.TEXT_WIDTH, sum(heights)), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=heights)
    panels = above.subplots(rows, min(2, len(grid.inits)), sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(grid.inits) :]:
        panel.remove()
    for panel, init in zip(panels.flat, grid.inits, strict=False):
        _exponents(panel, grid, init, task)
    panels[0, 0].invert_yaxis()
    _sizes(below.subplots(1, 3), grid, task)
    below.legend(handles=style.init_handles(grid.inits), loc="outside lower center", ncols=4)
    style.heading(above, _caption.short(frame, _caption.short_bars(frame)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid, task = Grid.of(frame, features(frame)), theory.setting(frame)
    parts = [_measured(grid, init, task) for init in grid.inits]
    known = [part for part in parts if part]
    message = f"Best rate and, at step {EARLY}, δ2 scale with width n as {_caption.listed(known)}."
    few = "These runs have too few widths, or too few best rates off the grid's edge, for exponents in the width n."
    half = f"half-filled and hollow marks are sizes at steps {EARLY} and {BOTH_MOVED} along the predicted rule for the rate"
    return _caption.lines(
        message if known else few,
        trends(grid, best_losses, "the final training loss at the best rate"),
        trends(grid, FINAL_Z_A, "the size of Z_A at the last step"),
        f"Full marks are exponents at each width's best rate, {half}, and black bars (below: dotted lines) predictions.",
        _caption.joined(_caption.runs(frame), _caption.bars(frame)),
    )


def _measured(grid: Grid, init: str, task: str | None) -> str:
    """`n^-0.66 [-0.89, -0.38] and n^0.02 [...] under Init[A] (predicted: -0.5 and 0)`; empty without exponents."""
    names = ("lr", "feature/delta_2")
    found = [dict(zip(NAMES, bootstrap(grid, partial(_tuned, init=init)), strict=True))[name] for name in names]
    if any(np.isnan(estimate.value) for estimate in found):
        return ""
    predicted = [theory.exponent(task, init, name) for name in names]
    compared = "" if None in predicted else f" (predicted: {predicted[0]:g} and {predicted[1]:g})"
    return f"{_caption.power(found[0])} and {_caption.power(found[1])} under {label(init)}{compared}"


def _exponents(panel: Axes, grid: Grid, init: str, task: str | None) -> None:
    """Exponents of all NAMES under an init, a row each."""
    look, power, rows = style.look(init), theory.exponent(task, init, "lr"), np.arange(len(NAMES))
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


def _sizes(panels: np.ndarray, grid: Grid, task: str | None) -> None:
    """What the exponents are of, against width."""
    measures = (
        (partial(sizes, column=theory.RATIO), theory.RATIO, rf"$\delta_2/\delta_1$ at step {EARLY}"),
        (best_losses, None, "final training loss"),
        (FINAL_Z_A, "feature/Z_A", "final size of $Z_A$"),
    )
    for panel, (measure, quantity, ylabel) in zip(panels, measures, strict=True):
        powers = theory.exponents(task, grid.inits, quantity) if quantity else {}
        against_width(panel, grid, powers, measure, short=True)
        panel.set_ylabel(ylabel)


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
        values,
        y,
        xerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)],
        color=look.color,
        marker=look.marker,
        fillstyle=fill,
        linestyle="none",
        elinewidth=1,
        capsize=2,
        label=label,
        markerfacecoloralt="white",
    )

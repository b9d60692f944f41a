"""Remedies under both inits: exponents of the best rate and of Z_A in the width, and the best loss at the largest width."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style, theory
from analysis.arms import parted
from analysis.arms import remedies as arms
from analysis.claims import subject
from analysis.figures import _caption
from analysis.figures._needs import OFF_THE_EDGE, THREE_WIDTHS
from analysis.figures._rows import arm_label, by_task, dots, log_x, row_height, rows
from analysis.grid import Grid, loss_name
from analysis.scaling import best_lrs, bootstrap, exponent, sizes
from analysis.theory import REMEDIES

RECORDS = ("remedies",)
AXES = ("task.name", "optimizer.name", *REMEDIES)
NEEDS = (THREE_WIDTHS, OFF_THE_EDGE)
LABELS = ("exponent of the best lr in $n$", "exponent of $Z_A$ in $n$, at the end")


def figure(frame: pd.DataFrame) -> Figure:
    tasks = [(part, arms(part)) for _, part in by_task(frame)]
    height = row_height(max(len(grid.inits) for _, grid in tasks))
    fig, panels = style.subplots(len(tasks), 3, height=height, extra=0.3, sharey="row")
    for (part, grid), row in zip(tasks, panels, strict=True):
        looks = [style.SIDES[theory.FAMILY.get(parted(arm)[0], "")] for arm in grid.inits]
        colors, markers = [look.color for look in looks], [look.marker for look in looks]
        for panel, measure, text in zip(row, (_rate, _Z_A), LABELS, strict=False):
            slopes = [bootstrap(grid, partial(measure, arm=arm))[0] for arm in grid.inits]
            panel.axvline(0, color="0.5", linewidth=0.6)
            dots(panel, slopes, colors, [False] * len(slopes), markers=markers, logs=False)
            panel.set_xlabel(text)
        widest = [bootstrap(grid, partial(_loss, arm=arm))[0] for arm in grid.inits]
        edges = [grid.best(arm, grid.widths[-1]).edge for arm in grid.inits]
        dots(row[2], widest, colors, edges, markers=markers)
        log_x(row[2], f"best {loss_name(part)}, $n = {grid.widths[-1]}$")
        rows(row[0], [arm_label(arm) for arm in grid.inits])
        for panel in row[1:]:
            rows(panel, None)
        row[0].set_title(subject(part), loc="left")
    style.heading(fig, _caption.short(frame, _caption.short_bars(frame), "hollow: at the grid's edge"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    return _caption.lines(
        *(_told(subject(part), arms(part)) for _, part in by_task(frame)),
        "Exponents are of widths whose best rate lies off the grid's edge.",
        _caption.runs(frame),
        _caption.bars(frame, "bars"),
    )


def _rate(grid: Grid, arm: str) -> np.ndarray:
    return np.array([exponent(grid.widths, best_lrs(grid, arm))])


def _Z_A(grid: Grid, arm: str) -> np.ndarray:
    return np.array([exponent(grid.widths, sizes(grid, arm, "final/feature/Z_A"))])


def _loss(grid: Grid, arm: str) -> np.ndarray:
    return np.array([grid.best(arm, grid.widths[-1]).log_loss])


def _told(task: str, grid: Grid) -> str:
    """The arm with the lowest loss, and how Z_A grows under Init[A]."""
    losses = {arm: grid.best(arm, grid.widths[-1]).log_loss for arm in grid.inits}
    finite = [arm for arm in losses if np.isfinite(losses[arm])]
    if not finite:
        return f"On {task}, no run finished at n = {grid.widths[-1]}."
    best = min(finite, key=losses.get)
    growth = {arm: _Z_A(grid, arm)[0] for arm in grid.inits if theory.FAMILY.get(parted(arm)[0]) == "A"}
    found = [f"n^{slope:.2f} ({arm_label(arm)})" for arm, slope in growth.items() if np.isfinite(slope)]
    grows = f"; Z_A scales as {_caption.listed(found)}" if found else ""
    return f"On {task}, {arm_label(best)} ends lowest at n = {grid.widths[-1]} ({np.exp(losses[best]):.2g}){grows}."

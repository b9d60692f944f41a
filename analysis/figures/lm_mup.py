"""Small Llamas pretrained in two ways: sizes of frozen features, best learning rates and the losses there, against width."""

import functools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.claims_bases import exponents, frozen_outputs
from analysis.coordinates import FROZEN
from analysis.figures import _caption
from analysis.figures._message import best_losses, label, trend
from analysis.figures._needs import TWO_WIDTHS
from analysis.figures._scaling import against_width, not_fitted
from analysis.grid import Grid, held_out, loss_name
from analysis.scaling import best_lrs
from analysis.tables.settings import parametrizations
from analysis.theory import exponents as predicted
from analysis.theory import setting

RECORDS = ("lm_mup.layers", "lm_mup", "coordinate_check.layers", "lm_lr_sensitivity")  # layers of such models, and runs
NEEDS = (TWO_WIDTHS,)
MEASURED = (FROZEN,)
COLORS = (*style.MARKS, "0.45", "#56B4E9", "#D55E00")  # of kinds of layer


def figure(*frames: pd.DataFrame) -> Figure:
    found = _pairs(frames)
    fig, axes = style.subplots(len(found), 3, height=2.75, extra=0.3)
    for row, (layers, runs) in zip(axes, found, strict=True):
        grid, powers = Grid.of(held_out(runs)), predicted(setting(runs), sorted(runs["init.name"].unique()), "lr")
        _frozen(row[0], layers)
        row[0].set_title(_name(runs), loc="left")
        against_width(row[1], grid, powers, best_lrs, short=True)
        not_fitted(row[1], grid, best_lrs, None)
        row[1].set_ylabel("best learning rate")
        against_width(row[2], grid, {}, best_losses, short=True)
        row[2].set_ylabel(f"{loss_name(runs)} there (nats)")
    _same_limits(axes[:, 0])
    inits = sorted({init for _, runs in found for init in runs["init.name"].unique()})
    fig.legend(handles=style.init_handles(inits), loc="outside lower center", ncols=4)
    fig.set_figheight(
        fig.get_figheight() + len(found) * style.legend_room(len(inits)) + style.legend_room(len(inits), 4)
    )
    style.heading(fig, _caption.short_bars(found[0][1]))
    return fig


def caption(*frames: pd.DataFrame) -> str:
    found = _pairs(frames)
    return _caption.lines(
        functools.reduce(_caption.joined, (_told(*pair) for pair in found)),
        "Left: the size of W0·Z of each kind of frozen layer, geometric means over layers and seeds; middle and right: lines "
        "are fits, dotted ones have the theory's exponents; best rates at the grid's edge are hollow and not fitted.",
        *(_caption.runs(runs) for _, runs in found),
        _caption.bars(found[0][1]),
    )


def _pairs(frames: tuple[pd.DataFrame, ...]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Runs, after their layers or those of others on the same kind of model."""
    return list(zip(frames[::2], frames[1::2], strict=True))


def _name(runs: pd.DataFrame) -> str:
    return parametrizations(runs).iloc[0] or "standard"


def _frozen(panel: Axes, layers: pd.DataFrame) -> None:
    """Sizes of frozen outputs against width, a line a kind of layer."""
    looks = zip(COLORS, style.OTHER_MARKERS, strict=True)
    for (kind, logs), (color, marker) in zip(frozen_outputs(layers).items(), looks, strict=False):
        panel.plot(
            logs.columns, np.exp(logs.mean()), color=color, marker=marker, linewidth=0.9, markersize=3.5, label=kind
        )
    style.width_axis(panel, np.sort(layers["task.width"].unique()))
    panel.set_yscale("log")
    panel.set_ylabel("size of $W_0Z$, frozen")
    style.legend_below(panel, ncols=2, handlelength=1.2, columnspacing=1.0)


def _same_limits(panels: np.ndarray) -> None:
    limits = np.array([panel.get_ylim() for panel in panels])
    for panel in panels:
        panel.set_ylim(limits.min(), limits.max())


def _told(layers: pd.DataFrame, runs: pd.DataFrame) -> str:
    grid = Grid.of(held_out(runs))
    rates = [trend(grid, init, best_lrs) for init in grid.inits]
    slopes = [slope.value for slope in exponents(layers).values()]
    sizes = f"frozen outputs scale as n^{min(slopes):.2f} to n^{max(slopes):.2f}, and " if slopes else ""
    fits = [f"{_caption.power(found.slope)} under {label(found.init)}" for found in rates if found.count > 1]
    known = f"the best rate as {_caption.listed(fits)}" if fits else "no best rate lies off the grid's edge"
    return f"Pretrained as {_name(runs)}: {sizes}{known}."

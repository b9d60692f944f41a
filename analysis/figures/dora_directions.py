"""How far the lengths and the directions of a weight's rows have moved: a point a layer and a quarter of training."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.directions import NAMES, QUARTERS, correlations, quarters
from analysis.figures import _caption
from analysis.figures._needs import Need
from analysis.scaling import Estimate, bootstrap

RECORDS = ("variants.layers",)
AXES = ("task.name", "adapter.name")
NEEDS = (Need("adapter.name", 1, "adapter=lora,dora log.directions=true", tuple(NAMES)),)
MEASURED = ("change/magnitude", "change/direction")


def figure(frame: pd.DataFrame) -> Figure:
    points = quarters(frame)
    inits = sorted(points["init.name"].unique())
    fig, axes = style.subplots(len(inits), len(NAMES), height=2.2, width=0.85, extra=0.3, sharex="row", sharey="row")
    for row, init in zip(axes, inits, strict=True):
        for panel, adapter in zip(row, NAMES, strict=True):
            part = points[(points["adapter.name"] == adapter) & (points["init.name"] == init)]
            _points(panel, part)
            lr = f", lr {part['optimizer.lr'].iloc[0]:.2g}" if len(part) else ""
            panel.set_title(f"{NAMES[adapter]}, {style.look(init).label}{lr}\n{_told(_correlation(part))}")
        row[0].set_ylabel("change of length, $|\\,\\|v\\| - \\|w\\|\\,|$")
    for panel in axes[-1]:
        panel.set_xlabel("change of direction, $1 - \\cos(v, w)$")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=QUARTERS)
    style.heading(fig, _caption.short(points, "a point a layer", _caption.short_bars(points)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    points = quarters(frame)
    parts = []
    for (adapter, init), part in points.groupby(["adapter.name", "init.name"]):
        r = _correlation(part)
        if np.isfinite(r.value):
            parts.append(f"{r.value:.2f}{_interval(r)} for {NAMES[adapter]} with {style.look(init).label}")
    found = f"is {_caption.listed(parts)}" if parts else "could not be computed"
    return _caption.lines(
        f"The correlation of changes of length and of direction of weights' rows, over layers and quarters of training, {found}.",
        "A positive one says that both grow together, as they do by training alone; a negative one, that one replaces the other.",
        "Points are layers (means over their rows) of all seeds, at the ends of four quarters of training, from light to dark.",
        _caption.runs(points),
        _caption.bars(points, "brackets"),
    )


def _points(panel: Axes, part: pd.DataFrame) -> None:
    """A point a layer and seed, a look a quarter."""
    for look, (step, at) in zip(style.QUARTERS, part.groupby("step"), strict=False):
        style_of = {"color": look.color, "markersize": 3, "markeredgecolor": "0.3", "markeredgewidth": 0.2}
        panel.plot(at["change/direction"], at["change/magnitude"], look.marker, label=f"step {step}", **style_of)
    panel.set(xscale="log", yscale="log")
    for axis in (panel.xaxis, panel.yaxis):
        style.few_ticks(axis)


def _correlation(part: pd.DataFrame) -> Estimate:
    if part.empty:
        return Estimate(np.nan, np.nan, np.nan)
    return bootstrap(correlations(part), lambda seeds: np.array([seeds.values.mean()]))[0]


def _told(r: Estimate) -> str:
    return "no correlation can be computed" if np.isnan(r.value) else f"correlation {r.value:.2f}{_interval(r)}"


def _interval(r: Estimate) -> str:
    return "" if np.isnan(r.low) else f" [{r.low:.2f}, {r.high:.2f}]"

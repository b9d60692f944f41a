"""How far the lengths and the directions of a weight's rows have moved: a point a layer and a quarter of training."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.directions import NAMES, QUARTERS, correlations, quarters
from analysis.scaling import bootstrap

RECORDS = ("variants.layers",)
AXES = ("task.name", "adapter.name")
COLORS = ("#C6DBEF", "#6BAED6", "#2171B5", "#08306B")


def figure(frame: pd.DataFrame) -> Figure:
    points = quarters(frame)
    inits = sorted(points["init.name"].unique())
    fig, axes = style.subplots(len(inits), len(NAMES), height=2.3, width=0.85, sharex="row", sharey="row")
    for row, init in zip(axes, inits, strict=True):
        for panel, (adapter, name) in zip(row, NAMES.items(), strict=True):
            part = points[(points["adapter.name"] == adapter) & (points["init.name"] == init)]
            for color, (step, at) in zip(COLORS, part.groupby("step"), strict=False):
                panel.plot(at["change/direction"], at["change/magnitude"], "o", color=color, markersize=3, markeredgecolor="0.3",
                           markeredgewidth=0.2, label=f"step {step}")  # fmt: skip
            r = bootstrap(correlations(part), lambda seeds: np.array([seeds.values.mean()]))[0]
            interval = "" if np.isnan(r.low) else f" [{r.low:.2f}, {r.high:.2f}]"
            lr = part["optimizer.lr"].iloc[0] if len(part) else np.nan
            panel.set_title(f"{name}, {style.look(init).label}, lr {lr:.2g}\ncorrelation {r.value:.2f}{interval}")
            panel.set(xscale="log", yscale="log")
            for axis in (panel.xaxis, panel.yaxis):
                style.few_ticks(axis, 1.5)
        row[0].set_ylabel("change of length, $|\\,\\|v\\| - \\|w\\|\\,|$")
    for panel in axes[-1]:
        panel.set_xlabel("change of direction, $1 - \\cos(v, w)$")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=QUARTERS)
    return fig

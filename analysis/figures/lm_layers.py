"""Layer by layer of a language model, over the steps: Z_A and δ2/δ1 at the best learning rate of each init, largest width."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption
from analysis.figures._needs import CURVE

RECORDS = ("lm_lr_sensitivity.layers", "lm_lr_sensitivity")
NEEDS = (CURVE,)
MEASURED = ("feature/Z_A", "feature/delta_1", "feature/delta_2")
RATIO = r"$\delta_2/\delta_1$"
QUANTITIES = {"feature/Z_A": style.COLUMNS["feature/Z_A"], RATIO: RATIO}


def figure(frame: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    frame = _widest(frame)
    inits, layers = sorted(frame["init.name"].unique()), _layers(frame)
    height = 0.45 + 0.125 * max(len(layers), 4)
    fig, axes = style.subplots(len(inits), 2, height=height, extra=0.75, sharex=True, sharey=True)
    for column, (quantity, label) in enumerate(QUANTITIES.items()):
        images = {init: _means(frame[frame["init.name"] == init], quantity, layers) for init in inits}
        norm = _norm(images.values())
        for panel, (init, image) in zip(axes[:, column], images.items(), strict=True):
            mesh = _image(panel, image, norm)
            lr = frame.loc[frame["init.name"] == init, "optimizer.lr"].iloc[0]
            panel.set_title(f"{style.look(init).label}, lr {lr:.2g}: {label}")
        axes[-1, column].set_xlabel("step")
        place = {"location": "bottom", "extend": "both", "aspect": 30, "pad": 0.02}
        bar = fig.colorbar(mesh, ax=list(axes[:, column]), label=label, **place)
        style.few_ticks(bar.ax.xaxis)
    for row in axes:
        row[0].set_yticks(np.arange(len(layers)) + 0.5, [_short(layer) for layer in layers], fontsize=6)
    axes[0, 0].invert_yaxis()  # which all panels share
    style.heading(
        fig, f"{_caption.short(_shown(frame, runs), 'geometric means over seeds')}; grey: zero, or not measured"
    )
    return fig


def caption(frame: pd.DataFrame, runs: pd.DataFrame) -> str:
    widest = _widest(frame)
    return _caption.lines(
        *(_range(widest, quantity, name) for quantity, name in (("feature/Z_A", "Z_A"), (RATIO, "δ2/δ1"))),
        "Rows are layers from the input (top) to the output, labelled by block and name, each init at its best rate.",
        _caption.runs(_shown(widest, runs)),
        "Colours are geometric means over seeds, without intervals; each column of panels has the scale of the bar below it.",
    )


def _widest(frame: pd.DataFrame) -> pd.DataFrame:
    """The layers of the widest models, with the ratio of increments."""
    frame = frame[frame["task.width"] == frame["task.width"].max()]
    return frame.assign(**{RATIO: frame["feature/delta_2"] / frame["feature/delta_1"]})


def _shown(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that are drawn, with their configuration, which a record of layers lacks."""
    return runs[runs["run_id"].isin(frame["run_id"])]


def _layers(frame: pd.DataFrame) -> list[str]:
    """From the input to the output."""
    return list(dict.fromkeys(frame["layer"]))


def _norm(images: Iterable[pd.DataFrame]) -> LogNorm | None:
    """One scale of colours for all inits, of all but the outermost values."""
    every = np.concatenate([image.to_numpy().ravel() for image in images])
    every = every[np.isfinite(every)]
    return LogNorm(*np.quantile(every, [0.02, 0.98])) if len(every) and every.min() < every.max() else None


def _image(panel: Axes, image: pd.DataFrame, norm: LogNorm | None) -> QuadMesh:
    """Layer × step as colours."""
    image = image if image.size else image.reindex(columns=[0])  # zero at all steps
    steps = image.columns.to_numpy(float)
    end = 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1
    panel.set_facecolor("0.85")  # not measured, or zero
    return panel.pcolormesh(
        np.append(steps, end), np.arange(len(image) + 1), image.to_numpy(), norm=norm, cmap=style.MAP
    )


def _range(frame: pd.DataFrame, quantity: str, name: str) -> str:
    """The lowest and the highest layer of every init, at the last step at which the quantity was measured."""
    parts = []
    for init in sorted(frame["init.name"].unique()):
        table = _means(frame[frame["init.name"] == init], quantity, _layers(frame))
        if table.size:
            last = table.iloc[:, -1].dropna()
            low, high = (
                f"{_caption.number(last[layer])} ({_short(layer)})" for layer in (last.idxmin(), last.idxmax())
            )
            parts.append(f"{low} to {high} under {style.look(init).label}")
    width = frame["task.width"].iloc[0]
    if not parts:
        return f"At n = {width} no layer has a {name} above zero."
    return f"At n = {width} and the last update, {name} is {_caption.listed(parts)}, over the layers."


def _means(runs: pd.DataFrame, quantity: str, layers: list[str]) -> pd.DataFrame:
    """Layer × step: geometric mean over seeds; nan where it is zero, over zero, or not measured."""
    logs = np.log(runs[quantity].where((runs[quantity] > 0) & np.isfinite(runs[quantity])))
    table = logs.groupby([runs["layer"], runs["step"]]).mean().unstack().reindex(layers)
    return np.exp(table.dropna(axis=1, how="all"))


def _short(layer: str) -> str:
    """`model.layers.0.self_attn.q_proj` -> `0 q_proj`."""
    parts = layer.split(".")
    return " ".join([*(part for part in parts if part.isdigit()), parts[-1]])

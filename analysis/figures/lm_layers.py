"""Layer by layer of a language model, over the steps: Z_A and δ2/δ1 at the best learning rate of each init, largest width."""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from analysis import style

RECORDS = ("lm_lr_sensitivity.layers",)
RATIO = r"$\delta_2/\delta_1$"


def figure(frame: pd.DataFrame) -> Figure:
    frame = frame[frame["task.width"] == frame["task.width"].max()]
    width, inits = frame["task.width"].iloc[0], sorted(frame["init.name"].unique())
    layers = list(dict.fromkeys(frame["layer"]))  # from the input to the output
    frame = frame.assign(**{RATIO: frame["feature/delta_2"] / frame["feature/delta_1"]})
    fig, axes = style.subplots(len(inits), 2, height=0.5 + 0.13 * len(layers), sharex=True, sharey=True)
    for column, (quantity, label) in enumerate((("feature/Z_A", style.COLUMNS["feature/Z_A"]), (RATIO, RATIO))):
        images = {init: _means(frame[frame["init.name"] == init], quantity, layers) for init in inits}
        every = np.concatenate([image.to_numpy().ravel() for image in images.values()])
        every = every[np.isfinite(every)]
        norm = LogNorm(*np.quantile(every, [0.02, 0.98])) if len(every) and every.min() < every.max() else None
        for panel, (init, image) in zip(axes[:, column], images.items(), strict=True):
            steps = image.columns.to_numpy(float)
            mesh = panel.pcolormesh(
                np.append(steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1), np.arange(len(layers) + 1),
                image.to_numpy(), norm=norm, cmap="cividis",
            )  # fmt: skip
            lr = frame.loc[frame["init.name"] == init, "optimizer.lr"].iloc[0]
            panel.set_title(f"{style.look(init).label}, $n = {width}$, lr {lr:.2g}: {label}")
            panel.set_facecolor("0.85")  # not measured, or zero
        fig.colorbar(mesh, ax=list(axes[:, column]), label=label, extend="both")
        axes[-1, column].set_xlabel("step")
    for row in axes:
        row[0].set_yticks(np.arange(len(layers)) + 0.5, [_short(layer) for layer in layers], fontsize=6)
    axes[0, 0].invert_yaxis()  # which all panels share
    return fig


def _means(runs: pd.DataFrame, quantity: str, layers: list[str]) -> pd.DataFrame:
    """Layer × step: geometric mean over seeds; nan where it is zero or not measured."""
    logs = np.log(runs[quantity].where(runs[quantity] > 0))
    table = logs.groupby([runs["layer"], runs["step"]]).mean().unstack().reindex(layers)
    return np.exp(table.dropna(axis=1, how="all"))


def _short(layer: str) -> str:
    """`model.layers.0.self_attn.q_proj` -> `0 q_proj`."""
    parts = layer.split(".")
    return " ".join([*(part for part in parts if part.isdigit()), parts[-1]])

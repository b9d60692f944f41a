"""Held-out loss of finetuned language models against learning rate, a panel a width, beside the loss of the frozen model."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import _sensitivity
from analysis.grid import held_out

RECORDS = ("lm_lr_sensitivity",)


def figure(frame: pd.DataFrame) -> Figure:
    fig, axes, grid = _sensitivity.panels(held_out(frame), "final held-out loss (nats)", log=False)
    for panel, width in zip(axes, grid.widths, strict=True):
        start = frame.loc[(frame["step"] == 0) & (frame["task.width"] == width), "eval/loss"].mean()
        if np.isfinite(start):
            panel.axhline(start, color="0.4", linestyle=":", linewidth=1.0, label="frozen model")
    _sensitivity.legend(fig, axes)
    return fig

"""How far training is from where it would be unstable: sharpness over its bound, and the rate used over the critical one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style, theory
from analysis.figures import _caption, _curves
from analysis.figures._needs import CURVE
from analysis.grid import Grid

RECORDS = ("edge_of_stability",)
NEEDS = (CURVE,)
MEASURED = ("stability/critical_lr", "stability/preconditioned", "train/loss")
LABELS = {
    "preconditioned": "preconditioned\nsharpness\nover its bound",
    "critical": "learning rate\nover the\ncritical one",
    "train/loss": style.COLUMNS["train/loss"],
}


def figure(frame: pd.DataFrame) -> Figure:
    shown, grid = _relative(frame), Grid.of(frame)
    fig, axes = _curves.subplots(grid, len(LABELS), height=1.6)
    for panel, column, width in _curves.panels(shown, list(LABELS), axes, grid):
        if column != "train/loss":
            panel.axhline(1, color="0.5", linestyle=":", linewidth=1.0)
        if column == next(iter(LABELS)):
            panel.set_title(f"$n = {width}$")
        if column == "train/loss":
            panel.set_xlabel("step")
            style.legend_below(panel)
    for row, label in zip(axes, LABELS.values(), strict=True):
        row[0].set_ylabel(label)
    style.heading(fig, _caption.short(frame, _caption.short_bands(frame), "dotted: where training would be unstable"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    shown, grid = _relative(frame), Grid.of(frame)
    quantities: Mapping[str, str] = {
        "the preconditioned sharpness over its bound": "preconditioned",
        "the rate over the critical one": "critical",
    }
    return _caption.lines(
        _curves.at_end(shown, grid, quantities),
        "The bound is (2 + 2β1)/((1 - β1)·lr), that of Adam in full batch; above the critical rate an update raises the loss.",
        *_curves.explained(frame, grid),
    )


def _relative(frame: pd.DataFrame) -> pd.DataFrame:
    """With what is 1 where training would be unstable."""
    with np.errstate(divide="ignore"):
        critical = frame["optimizer.lr"] / frame["stability/critical_lr"]
    return frame.assign(
        preconditioned=frame["stability/preconditioned"] / theory.stability_bound(frame), critical=critical
    )

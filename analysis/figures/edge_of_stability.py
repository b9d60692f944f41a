"""The preconditioned sharpness over the bound beyond which the optimizer is unstable, and the loss, at each init's best rate."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style, theory
from analysis.figures import _caption, _curves
from analysis.figures._needs import CURVE
from analysis.grid import Grid

RECORDS = ("edge_of_stability",)
NEEDS = (CURVE,)
MEASURED = ("stability/preconditioned", "train/loss")
OVER_BOUND = "preconditioned sharpness\nover its bound"
COLUMNS = [OVER_BOUND, "train/loss"]


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, axes = _curves.subplots(grid, len(COLUMNS), height=1.8)
    for panel, column, width in _curves.panels(_relative(frame), COLUMNS, axes, grid):
        if column == OVER_BOUND:
            panel.axhline(1, color="0.5", linestyle=":", linewidth=1.0)
            panel.set_title(f"$n = {width}$")
        else:
            panel.set_xlabel("step")
            style.legend_below(panel)
    style.heading(fig, _caption.short(frame, _caption.short_bands(frame), "dotted: the edge of stability"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid, measured = Grid.of(frame), frame.loc[frame["stability/preconditioned"].notna(), "step"]
    quantity = {"the preconditioned sharpness over its bound": OVER_BOUND}
    return _caption.lines(
        _curves.at_end(_relative(frame), grid, quantity, int(measured.max())),
        "The bound is Adam's in full batch, (2 + 2β1)/((1 - β1)·lr).",
        *_curves.explained(frame, grid),
    )


def _relative(frame: pd.DataFrame) -> pd.DataFrame:
    """With the sharpness as a share of what the optimizer bears."""
    return frame.assign(**{OVER_BOUND: frame["stability/preconditioned"] / theory.stability_bound(frame)})

"""Final loss against learning rate, a panel a width; diverged runs stand at the top edge."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.grid import Grid

RECORDS = ("lr_vs_width",)


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, [panels] = style.subplots(1, len(grid.widths), height=2.5, sharey=True)
    for width, axes in zip(grid.widths, panels, strict=True):
        for offset, init in enumerate(grid.inits):
            _curve(axes, grid, init, width, top=1.0 - 0.05 * offset)
        style.log_y(axes)
        axes.set(xscale="log", xlabel="learning rate", title=f"$n = {width}$")
    panels[0].set_ylabel("final training loss")
    entries = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)
    return fig


def _curve(axes, grid: Grid, init: str, width: int, top: float) -> None:
    """Geometric mean and range over the seeds that did not diverge; a triangle where any did."""
    look, losses = style.look(init), grid.log_loss[grid.at(init, width)]  # (L, S)
    finite = np.where(np.isfinite(losses), losses, np.nan)
    known = np.isfinite(finite).any(1)
    middle = np.exp(np.nanmean(finite[known], axis=1))
    low, high = (np.exp(f(finite[known], axis=1)) for f in (np.nanmin, np.nanmax))
    lrs = grid.lrs[known]
    axes.fill_between(lrs, low, high, color=look.color, alpha=0.25, linewidth=0)
    axes.plot(lrs, middle, color=look.color, marker=look.marker, linestyle=look.line, markersize=3, label=look.label)
    diverged = np.isposinf(losses).any(1)
    if diverged.any():
        axes.plot(
            grid.lrs[diverged], np.full(diverged.sum(), top), "^", color=look.color, markersize=5,
            markeredgecolor="black", markeredgewidth=0.4, clip_on=False, transform=axes.get_xaxis_transform(),
            label=f"{look.label}, diverged",
        )  # fmt: skip

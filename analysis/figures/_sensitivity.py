"""What the figures of loss against learning rate share: a panel a width, a curve an init, diverged runs at the top edge."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.grid import Grid


def panels(frame: pd.DataFrame, ylabel: str, log: bool = True) -> tuple[Figure, list[Axes], Grid]:
    """The figure without its legend, its panels, and the grid."""
    grid = Grid.of(frame)
    fig, [axes] = style.subplots(1, len(grid.widths), height=2.5, sharey=True)
    for width, panel in zip(grid.widths, axes, strict=True):
        for offset, init in enumerate(grid.inits):
            _curve(panel, grid, init, width, top=1.0 - 0.05 * offset)
        if log:
            style.log_y(panel)
        panel.set(xscale="log", xlabel="learning rate", title=f"$n = {width}$")
    axes[0].set_ylabel(ylabel)
    return fig, list(axes), grid


def legend(figure: Figure, axes: list[Axes]) -> None:
    """One for all panels, below them."""
    entries = {
        label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)


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

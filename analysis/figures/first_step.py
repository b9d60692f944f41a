"""Which factor receives a gradient at the first step: norms at step 0 against width, for every init."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption, _curves
from analysis.grid import Grid

RECORDS = ("first_step",)
MEASURED = tuple(style.FACTORS)


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, axes = style.wrapped(len(grid.inits), height=2.1, columns=3, extra=0.25, sharey=True)
    start = frame[frame["step"] == 0]
    norms = start[list(style.FACTORS)].to_numpy()
    norms = norms[np.isfinite(norms)]
    smallest = norms[norms > 0].min(initial=1.0)
    for panel, init in zip(axes, grid.inits, strict=True):
        panel.set_yscale("symlog", linthresh=smallest / 3)
        _norms(panel, start[start["init.name"] == init])
        style.width_axis(panel, grid.widths)
        panel.set_title(style.look(init).label)
    style.label_rows(axes, "gradient norm at step 0")
    decades = 10.0 ** np.arange(np.ceil(np.log10(smallest)), np.log10(norms.max(initial=smallest)))
    axes[0].set_yticks([0.0, *decades])  # no other, as labels near 0 would cover each other
    axes[0].set_ylim(bottom=-smallest / 15)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    style.heading(fig, _caption.short(frame, _caption.short_bands(frame)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    return _caption.lines(
        _curves.zeros(frame),
        "The axis is linear near zero, so that an exact zero has a place on it.",
        _caption.runs(frame),
        _caption.bands(frame, of="means"),
    )


def _norms(panel: Axes, start: pd.DataFrame) -> None:
    """Means over seeds of both gradient norms against width, with the range of the seeds as a band."""
    runs = start.groupby("task.width")
    for column, look in style.FACTORS.items():
        low, middle, high = runs[column].min(), runs[column].mean(), runs[column].max()
        panel.fill_between(middle.index, low, high, color=look.color, alpha=0.2, linewidth=0)
        line = {"color": look.color, "marker": look.marker, "linestyle": look.line}
        panel.plot(middle.index, middle, label=look.label, **line)

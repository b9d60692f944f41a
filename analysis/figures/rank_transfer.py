"""Best learning rate against rank, a panel a way to scale the product, beside the exponents that muA predicts.

Ranks that learn little, or whose best rate lies at the grid's edge, are drawn hollow and not fitted.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style, theory
from analysis.figures import _caption, _sensitivity
from analysis.figures._message import label, trend
from analysis.figures._needs import TWO_RATES, Need
from analysis.figures._scaling import against_width, not_fitted
from analysis.scaling import MIN_WIDTHS, learning_lrs, rank_grids

RECORDS = ("rank_transfer",)
AXES = ("adapter.name", "adapter.rank", "adapter.alpha")
NEEDS = (Need("adapter.rank", MIN_WIDTHS, "adapter.rank=2,4,8,16"), TWO_RATES)
MEASURED = ("train/loss",)
HOLLOW = "not fitted: learns less than a tenth of the loss, or lr at the grid's edge"
LABELS = {0.5: "$s = r^{1/2}$", 0.0: "$s = 1$", -0.5: "$s = r^{-1/2}$", -1.0: "$s = r^{-1}$"}


def figure(frame: pd.DataFrame) -> Figure:
    grids = rank_grids(frame)
    inits = sorted({init for grid in grids.values() for init in grid.inits})
    fig, axes = style.wrapped(len(grids), 2.7 + style.legend_room(len(inits)), columns=3, extra=0.25, sharey=True)
    for panel, (power, grid) in zip(axes, grids.items(), strict=True):
        predicted = {init: theory.RANK_POWERS.get((theory.FAMILY.get(init), power)) for init in grid.inits}
        against_width(panel, grid, predicted, learning_lrs, symbol="r", axis="rank", short=True)
        not_fitted(panel, grid, learning_lrs, why=None)
        panel.set_title(LABELS[power])
    style.label_rows(axes, "best learning rate")
    hollow = Line2D([], [], color="0.4", marker="o", fillstyle="none", linestyle="none", label=HOLLOW)
    _sensitivity.legend_below(fig, [*style.init_handles(inits), hollow])
    style.heading(fig, _caption.short(frame, _caption.short_bars(frame), "dotted: predicted by muA"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    parts = []
    for power, grid in rank_grids(frame).items():
        for init in grid.inits:
            slope = trend(grid, init, learning_lrs)
            if slope.count >= MIN_WIDTHS:
                predicted = theory.RANK_POWERS.get((theory.FAMILY.get(init), power))
                compared = "" if predicted is None else f" (predicted: {predicted:g})"
                parts.append(f"{_caption.power(slope.slope, 'r')}{compared} under {label(init)} for s = r^{power:g}")
    return _caption.lines(
        f"The best learning rate scales with the rank r as {'; '.join(parts)}."
        if parts
        else "These runs have too few ranks that learn at a best rate off the grid's edge for an exponent in the rank r.",
        "The adapter's product is multiplied by s; lines are fits, dotted ones have the exponents that muA predicts.",
        f"Hollow points are left out of the fits: {HOLLOW.removeprefix('not fitted: ')}.",
        _caption.runs(frame),
        _caption.bars(frame),
    )

"""LoRA's best learning rate over that of full finetuning, against width and against rank, beside what theory and practice say."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style, theory
from analysis.claims_full import ABOUT, RATIO, Comparison, beside_full, log_ratio, ratios
from analysis.figures import _caption, _sensitivity
from analysis.figures._message import label
from analysis.figures._needs import TWO_RATES, Need
from analysis.figures._scaling import against_width
from analysis.scaling import MIN_WIDTHS

RECORDS = ("full_finetuning",)
AXES = ("adapter.name", "adapter.rank")
NEEDS = (
    Need("adapter.name", 2, "adapter=lora,full"),
    (Need("task.width", MIN_WIDTHS, "task.width=32,64,128"), Need("adapter.rank", MIN_WIDTHS, "adapter.rank=2,8,32")),
    TWO_RATES,
)
BASELINE = True


def figure(frame: pd.DataFrame) -> Figure:
    found = list(beside_full(frame))
    inits = list(dict.fromkeys(init for comparison in found for init in comparison.inits()))
    room = style.legend_room(len(inits) + 1)
    fig, axes = style.wrapped(max(1, len(found)), 2.5 + room, columns=2, extra=0.25, sharey=True)
    for panel, comparison in zip(axes, found, strict=False):
        _panel(panel, comparison)
    if not found:
        axes[0].set(xticks=[], yticks=[])
        axes[0].text(0.5, 0.5, "no sizes to compare", transform=axes[0].transAxes, ha="center", color="0.4")
    style.label_rows(axes, "best lr of LoRA over that\nof full finetuning")
    ten = Line2D(
        [], [], color="0.4", linestyle="-.", linewidth=1.0, label=f"{RATIO}, as reported; band: a factor of {ABOUT}"
    )
    _sensitivity.legend_below(fig, [*style.init_handles(inits), ten])
    style.heading(fig, _caption.short(frame, _caption.short_bars(frame), "dotted: muA"))
    return fig


def caption(frame: pd.DataFrame) -> str:
    found = [_told(comparison) for comparison in beside_full(frame)]
    return _caption.lines(
        *(found or [f"Full finetuning stands beside no LoRA at {MIN_WIDTHS} widths, or ranks, of one alpha."]),
        f"Reported is a ratio of about {RATIO} at s = 32/r; dotted lines have the exponents that muA derives.",
        _caption.runs(frame),
        _caption.bars(frame, "bars and brackets"),
    )


def _panel(panel: Axes, comparison: Comparison) -> None:
    symbol, inits = comparison.symbol, comparison.inits()
    powers = {init: _power(init, symbol) for init in inits}
    measure = partial(log_ratio, full=comparison.full)
    name = {"n": "width", "r": "rank"}[symbol]
    against_width(panel, comparison.grid, powers, measure, symbol, name, short=True, inits=inits)
    panel.axhspan(RATIO / ABOUT, RATIO * ABOUT, color="0.9", zorder=0)
    panel.axhline(RATIO, color="0.4", linestyle="-.", linewidth=1.0)
    panel.set_title(comparison.setting, loc="left")


def _power(init: str, symbol: str) -> float | None:
    power = theory.FULL_POWERS.get((theory.FAMILY[init], symbol))
    return None if power is None else power[0]


def _told(comparison: Comparison) -> str:
    """The ratios at the ends, and how they move."""
    parts = []
    for init in comparison.inits():
        *at, slope = ratios(comparison, init)
        known = [
            (size, ratio) for size, ratio in zip(comparison.grid.widths, at, strict=True) if np.isfinite(ratio.value)
        ]
        if known:
            ends = " and ".join(
                f"{_caption.ratio(ratio)} at {comparison.symbol} = {size}"
                for size, ratio in dict.fromkeys([known[0], known[-1]])
            )
            moves = f" ({_caption.power(slope, comparison.symbol)})" if np.isfinite(slope.value) else ""
            parts.append(f"{ends}{moves} under {label(init)}")
    if not parts:
        return f"With {comparison.setting} no best rates off the grid's edge are known to compare."
    return f"With {comparison.setting}, LoRA's best learning rate over that of full finetuning is {'; '.join(parts)}."

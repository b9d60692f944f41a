"""What it costs to carry the best rate over to the largest size: by our fit, by the theory's exponent, unchanged."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.claims_transfer import GOAL
from analysis.figures import _caption
from analysis.figures._message import label
from analysis.figures._needs import TWO_RATES, Need
from analysis.figures._rows import dots, row_height, rows
from analysis.scaling import Estimate
from analysis.transfer import LEAST as LEAST_SIZES
from analysis.transfer import RULES, SIZES, Sweep, regrets, sweeps

RECORDS = ("lr_vs_width", "width_exponents", "lm_lr_sensitivity", "rank_transfer", "horizon_transfer")
NEEDS = (TWO_RATES, tuple(Need(field, LEAST_SIZES + 1, f"{field}=32,64,128") for field in SIZES))
LEAST = 1e-4  # of the gain: what is drawn for less
LOOKS = dict(zip(RULES, (("o", style.MARKS[0]), ("^", style.MARKS[1]), ("s", style.MARKS[2])), strict=True))
OFFSETS = (-0.22, 0.0, 0.22)


def figure(*frames: pd.DataFrame) -> Figure:
    found = _found(frames)
    fig, ((panel,),) = style.subplots(1, 1, 0.5 + row_height(2 * len(found)), width=0.95, extra=0.3)
    for (marker, color), offset, estimates in zip(LOOKS.values(), OFFSETS, _columns(found), strict=True):
        drawn = [_log(estimate) for estimate in estimates]
        hollow = [estimate.value >= 1 for estimate in estimates]
        dots(panel, drawn, [color] * len(drawn), hollow, offset, [marker] * len(drawn))
    rows(panel, [name for name, _ in found])
    if not found:
        panel.set_yticks([])
        panel.text(0.5, 0.5, "no sizes to carry a rate over to", transform=panel.transAxes, ha="center", color="0.4")
    panel.set_xscale("log")
    panel.set_xlim(LEAST / 1.5, 1.5)
    ticks = [1e-4, 1e-3, 1e-2, 1e-1, 1]
    panel.set_xticks(ticks, ["≤ 0.01%", "0.1%", "1%", "10%", "100%"])
    panel.axvline(GOAL, color="0.6", linestyle=":", linewidth=1.0)
    panel.set_xlabel("loss above the best at the largest size, of what training gains there")
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="none", label=RULES[rule])
        for rule, (marker, color) in LOOKS.items()
    ]
    handles.append(Line2D([], [], color="0.6", linestyle=":", linewidth=1.0, label="goal"))
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    style.heading(fig, _caption.short_bars(frames[0]))
    return fig


def caption(*frames: pd.DataFrame) -> str:
    found = _found(frames)
    fits = [estimates[0].value for _, estimates in found if np.isfinite(estimates[0].value)]
    good = sum(value <= GOAL for value in fits)
    lowest = {rule: 0 for rule in RULES}
    for _, estimates in found:
        values = [estimate.value if np.isfinite(estimate.value) else np.inf for estimate in estimates]
        if np.isfinite(values).any():
            lowest[list(RULES)[int(np.argmin(values))]] += 1
    if not fits:
        return _caption.lines(
            "No sweep has a best rate at enough sizes to carry it over.",
            _caption.runs(pd.concat(frames, ignore_index=True)),
            _caption.bars(frames[0]),
        )
    return _caption.lines(
        f"Carried over to the largest size by our fit, the best rate costs at most {GOAL:.0%} of what training gains there in "
        f"{good} of {len(fits)} cases; lowest is {_caption.listed([f'{RULES[rule]} in {n}' for rule, n in lowest.items()])}.",
        "Our fit is the least-squares line of log best rate against log size, over all smaller sizes; the theory's is the line "
        "with its exponent; the same rate is that of the largest of them. Hollow: the rate loses all that training gains.",
        _caption.runs(pd.concat(frames, ignore_index=True)),
        _caption.bars(frames[0]),
    )


def _found(frames: tuple[pd.DataFrame, ...]) -> list[tuple[str, list[Estimate]]]:
    """Name of a row, and the regret of each rule; of every sweep over sizes among the tables, and every init."""
    parts = [
        (task, sweep)
        for frame in {id(frame): frame for frame in frames}.values()
        for task, part in frame.groupby("task.name")
        for sweep in sweeps(part)
    ]
    return [(_name(str(task), sweep, init), regrets(sweep, init)) for task, sweep in parts for init in sweep.grid.inits]


def _name(task: str, sweep: Sweep, init: str) -> str:
    short = {"teacher_student": "teacher", "feature_regression": "features", "language_model": "Llama"}.get(task, task)
    return f"{short}, {sweep.what}, {label(init)}"


def _columns(found: list[tuple[str, list[Estimate]]]) -> list[list[Estimate]]:
    """Per rule, a row each."""
    return [[estimates[place] for _, estimates in found] for place in range(len(RULES))]


def _log(estimate: Estimate) -> Estimate:
    """Of a share that is drawn at LEAST where it is less."""
    value, low, high = (np.log(max(x, LEAST)) if np.isfinite(x) else np.nan for x in vars(estimate).values())
    return Estimate(value, low, high)

"""Critical rates of the first steps against the rates at which runs break down, and against the best: every init and width."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.claims_stability import FACTOR
from analysis.critical import FIRST, Cell, cells
from analysis.figures import _caption
from analysis.grid import NotShown

RECORDS = ("sharpness_vs_lr", "lr_vs_width", "width_exponents", "lm_lr_sensitivity", "lm_mup", "init_zoo")
AXES = ("task.name", "task.parametrization")
RATES = {"breakdown": "rate at which runs\nbegin to break down", "best": "best learning rate"}
GAUSSIAN = ("gaussian_A", "gaussian_B")  # trained at several widths
OTHER = style.SIDES[""]


def figure(*frames: pd.DataFrame) -> Figure:
    found = _found(frames)
    subjects = list(dict.fromkeys(cell.subject for cell in found))
    width = min(1.0, 0.3 + 0.25 * len(subjects))
    fig, axes = style.subplots(len(RATES), len(subjects), height=1.75, width=width, extra=0.5)
    for column, subject in zip(axes.T, subjects, strict=True):
        of_subject = [cell for cell in found if cell.subject == subject]
        rates = np.exp([cell.critical for cell in of_subject])
        for panel, name in zip(column, RATES, strict=True):
            _panel(panel, of_subject, name, rates[np.isfinite(rates) & (rates > 0)])
        column[0].set_title(subject.replace("language_model", "Llamas"))
        column[0].tick_params(labelbottom=False, which="both")
        column[-1].set_xlabel("critical rate")
    for panel, label in zip(axes[:, 0], RATES.values(), strict=True):
        panel.set_ylabel(label)
    handles = [_handle(style.look(init)) for init in GAUSSIAN if any(cell.init == init for cell in found)]
    handles += [_handle(OTHER, "another init")] * any(cell.init not in GAUSSIAN for cell in found)
    handles += [Line2D([], [], color="0.5", linestyle=":", linewidth=1.0, label=f"equal; band: a factor of {FACTOR}")]
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    style.heading(fig, "an init and width a point; hollow: breakdown there or above")
    return fig


def _panel(panel: Axes, found: list[Cell], name: str, rates: np.ndarray) -> None:
    """`rates`: the critical ones that the panel has a place for."""
    for init in dict.fromkeys(cell.init for cell in found):
        points = sorted((c.width, *np.exp([c.critical, getattr(c, name)])) for c in found if c.init == init)
        _, x, y = np.array(points).T
        look = style.look(init) if init in GAUSSIAN else OTHER
        line = look.line if init in GAUSSIAN else "none"
        panel.plot(x, y, color=look.color, marker=look.marker, linestyle=line, linewidth=0.8, markersize=3.5)
        if name == "breakdown" and (bounds := [c for c in found if c.init == init and np.isnan(c.breakdown)]):
            x, y = np.exp([[c.critical, c.breaks_from] for c in bounds]).T
            panel.plot(x, y, look.marker, color=look.color, markersize=3.5, fillstyle="none")
    if len(rates) and np.isfinite(panel.dataLim.minposy):
        panel.set(xscale="log", yscale="log")
        ends = np.array([rates.min() / 1.5, rates.max() * 1.5])
        panel.fill_between(ends, ends / FACTOR, ends * FACTOR, color="0.9", linewidth=0, zorder=0)
        panel.plot(ends, ends, color="0.5", linestyle=":", linewidth=1.0, zorder=0.5)
        panel.set_xlim(*ends)
        style.few_ticks(panel.xaxis)
    else:
        panel.text(0.5, 0.5, "no rates to compare with", transform=panel.transAxes, ha="center", color="0.4")


def _handle(look: style.Look, label: str = "") -> Line2D:
    return Line2D(
        [], [], color=look.color, marker=look.marker, linestyle="none", markersize=3.5, label=label or look.label
    )


def caption(*frames: pd.DataFrame) -> str:
    found, (first, *others) = _found(frames), frames
    return _caption.lines(
        _told(found, "breakdown", "the rate at which runs begin to break down"),
        _told(found, "best", "the best rate"),
        f"The critical rate is the geometric mean over steps {FIRST[0]} to {FIRST[1]} of how far an update can be stretched "
        "before the loss rises, at the lowest rate that was trained; breakdown is known where it lies between two rates, a "
        "factor of 2 or less apart; best rates at a grid's edge are left out; points are means over seeds, without intervals.",
        _caption.runs(first),
        _caption.runs(pd.concat(others, ignore_index=True)).replace("Runs", "Rates", 1) if others else "",
    )


def _found(frames: Sequence[pd.DataFrame]) -> list[Cell]:
    """Raises NotShown where there is none."""
    if found := cells(frames):
        return found
    raise NotShown(
        "sharpness_vs_lr needs runs at several learning rates, of inits and widths with sharpness.every=1, too"
    )


def _told(found: list[Cell], name: str, what: str) -> str:
    """By what factor it lies above the critical rate, subject by subject."""
    told = []
    for subject in dict.fromkeys(cell.subject for cell in found):
        logs = np.array([getattr(c, name) - c.critical for c in found if c.subject == subject])
        logs = logs[np.isfinite(logs)]
        if len(logs):
            low, middle, high = (_caption.number(x) for x in np.exp([logs.min(), np.median(logs), logs.max()]))
            near = f"within a factor of {FACTOR} in {int((np.abs(logs) <= np.log(FACTOR)).sum())} of {len(logs)}"
            told.append(f"{middle} on {subject} ({low} to {high}; {near})")
    return (
        f"In the median of cells in which it is known, {what} over the critical rate is {_caption.listed(told)}."
        if told
        else ""
    )

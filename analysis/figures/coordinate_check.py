"""Sizes of what adapters do beside what their layers do without them, step by step, and their exponents in the width.

Above: against step, of the widest models, a panel an init and kind of layer, at up to three learning rates. Below: exponents
along two rules for the rate, with verdicts. What is measured, and the rules of the verdicts, stand in `analysis.coordinates`.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import coordinates, style
from analysis.claims import NEGLIGIBLE, UNKNOWN
from analysis.coordinates import FROZEN, RULES, SIZES, STABLE, verdict
from analysis.figures import _caption, _curves
from analysis.figures._message import label
from analysis.figures._needs import Need
from analysis.grid import Grid
from analysis.scaling import MIN_WIDTHS, Estimate

RECORDS = ("coordinate_check.layers", "coordinate_check")
AXES = ("optimizer.lr", "task.model")
NEEDS = (Need("step", 2, "steps=10"),)
MEASURED = tuple(dict.fromkeys((*SIZES, *SIZES.values())))
JUDGED = "feature/Z_B"
CURVES = {"feature/Z_B": "-", "feature/dZ_B": ":"}
SHADES = style.QUARTERS[1:]  # of learning rates, from light to dark
COLUMNS = 7  # of panels side by side
Slopes = dict[tuple[str, str], Estimate]


def figure(frame: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    table, kinds = coordinates.by_kind(frame), _kinds(frame)
    grid = coordinates.grid(table, runs)
    found, lines = _found(grid), -(-len(kinds) // COLUMNS)
    heights = [1.15 * lines * len(grid.inits) + 0.8]
    heights += [(0.21 * max(len(kinds), 4) + 0.35) * len(grid.inits) + 0.5] if found else []
    fig = Figure(figsize=(style.TEXT_WIDTH, sum(heights)), layout="constrained")
    parts = fig.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _steps(parts[0], table, grid, kinds, lines)
    if found:
        _exponents(parts[1], grid, kinds, found)
    widest = f"above: n = {grid.widths[-1]}" if len(grid.widths) > 1 else ""
    style.heading(parts[0], _caption.short(runs, widest, _caption.short_bands(runs)))
    return fig


def caption(frame: pd.DataFrame, runs: pd.DataFrame) -> str:
    grid, kinds = coordinates.grid(coordinates.by_kind(frame), runs), _kinds(frame)
    found = _found(grid)
    rule = f"; it is stable where the interval of its exponent holds 0, or lies within {NEGLIGIBLE} of it"
    return _caption.lines(
        *(_verdicts(grid, kinds, found) if found else _sizes(grid)),
        f"A kind is the geometric mean over its layers{rule if found else ''}.",
        _caption.runs(runs),
        _caption.joined(_caption.bands(runs), _caption.bars(runs) if found else ""),
    )


def _kinds(frame: pd.DataFrame) -> list[str]:
    """From the input to the output."""
    return list(dict.fromkeys(coordinates.kinds(frame["layer"].unique()).values()))


def _found(grid: Grid) -> dict[tuple[str, float], Slopes]:
    """(init, rule) -> exponents; nothing where no size has one."""
    found = {(init, power): coordinates.slopes(grid, init, power) for init in grid.inits for power in RULES}
    known = any(np.isfinite(slope.value) for slopes in found.values() for slope in slopes.values())
    return found if known else {}


def _steps(part: SubFigure, table: pd.DataFrame, grid: Grid, kinds: list[str], lines: int) -> None:
    """Curves of the widest models, a panel an init and kind."""
    table = table[table["task.width"] == grid.widths[-1]]
    rates, last = _few(np.sort(table["optimizer.lr"].unique())), table["step"].max()
    axes = part.subplots(lines * len(grid.inits), -(-len(kinds) // lines), squeeze=False)
    for place, init in enumerate(grid.inits):
        panels = axes[place * lines : (place + 1) * lines].ravel()
        for panel, kind in zip(panels, kinds, strict=False):
            of_panel = table[(table["init.name"] == init) & (table["kind"] == kind)]
            for lr, look in zip(rates, SHADES, strict=False):
                for column, line in CURVES.items():
                    _curves.draw(panel, of_panel[of_panel["optimizer.lr"] == lr], column, look.color, line, "")
            style.log_y(panel)
            panel.set(
                title=kind, xlabel="step", ylabel=f"{label(init)}\nrelative size", xlim=(-0.05 * last, 1.05 * last)
            )
            panel.xaxis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10]))
            panel.label_outer()
        for panel in panels[len(kinds) :]:
            panel.remove()
    _curves.same_limits(part.axes)
    handles = [Line2D([], [], color=look.color, label=f"lr {lr:.2g}") for lr, look in zip(rates, SHADES, strict=False)]
    named = zip(CURVES.items(), (style.COORDINATES["feature/Z_B"].label, "its change in a step"), strict=True)
    handles += [Line2D([], [], color="black", linestyle=line, label=text) for (_, line), text in named]
    part.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _few(rates: np.ndarray) -> np.ndarray:
    """The lowest, a middle and the highest."""
    return rates[np.unique([0, (len(rates) - 1) // 2, len(rates) - 1])] if len(rates) else rates


def _exponents(part: SubFigure, grid: Grid, kinds: list[str], found: dict[tuple[str, float], Slopes]) -> None:
    """A panel an init and rule, a row a kind, with its verdict beside it."""
    axes = part.subplots(len(grid.inits), len(RULES), squeeze=False)
    for (init, power), panel in zip(found, axes.flat, strict=True):
        slopes = found[init, power]
        panel.axvspan(-NEGLIGIBLE, NEGLIGIBLE, color="0.85", linewidth=0)
        panel.axvline(0, color="0.5", linewidth=0.6)
        panel.hlines(
            np.arange(1, len(kinds)) - 0.5, 0, 1, transform=panel.get_yaxis_transform(), color="0.9", linewidth=0.5
        )
        for i, (size, look) in enumerate(style.COORDINATES.items()):
            _dots(panel, [slopes[size, kind] for kind in kinds], 0.18 * (i - 1.5), look)
        for row, kind in enumerate(kinds):
            word = verdict(slopes[JUDGED, kind])
            place = {"transform": panel.get_yaxis_transform(), "va": "center", "fontsize": 6}
            panel.text(1.02, row, word, color="0.5" if word in (STABLE, UNKNOWN) else "black", **place)
        panel.set(title=f"{label(init)}, {_rule(power)}: {_count(slopes, kinds)} stable", xlabel="exponent in $n$")
        panel.set_yticks(range(len(kinds)), kinds)
        panel.tick_params(axis="y", length=0)
        panel.label_outer()
    limits = np.array([panel.get_xlim() for panel in axes.flat])
    for panel in axes.flat:
        panel.set(xlim=(limits.min(), limits.max()), ylim=(len(kinds) - 0.5, -0.5))
    looks = style.COORDINATES.values()
    handles = [Line2D([], [], color=k.color, marker=k.marker, linestyle="none", label=k.label) for k in looks]
    part.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _dots(panel: Axes, slopes: list[Estimate], offset: float, look: style.Look) -> None:
    """A dot a row with its interval; nothing where there is none."""
    value, low, high = (np.array([getattr(slope, name) for slope in slopes]) for name in ("value", "low", "high"))
    mark = {"color": look.color, "marker": look.marker, "markersize": 3, "linestyle": "none"}
    rows = np.arange(len(slopes)) + offset
    bars = np.maximum([value - low, high - value], 0)
    panel.errorbar(value, rows, xerr=bars, elinewidth=0.8, capsize=1.2, **mark)


def _rule(power: float) -> str:
    return "lr ∝ $n^{-1/2}$" if power == -0.5 else f"lr ∝ $n^{{{power:g}}}$"


def _count(slopes: Slopes, kinds: list[str]) -> str:
    """`3 of 7`"""
    return f"{sum(verdict(slopes[JUDGED, kind]) == STABLE for kind in kinds)} of {len(kinds)}"


def _verdicts(grid: Grid, kinds: list[str], found: dict[tuple[str, float], Slopes]) -> list[str]:
    """What sizes do in how many kinds, with the range of their exponents, and that of what they are relative to."""
    parts = []
    for power in RULES:
        of = [
            f"under {label(i)} {_told(found[i, power], kinds)} ({_range(found[i, power], JUDGED)})" for i in grid.inits
        ]
        parts.append(f"at lr ∝ n^{power:g}, {', '.join(of)}")
    starts = dict.fromkeys(_caption.number(np.exp(coordinates.rates(grid, init, 0.0)[0])) for init in grid.inits)
    return [
        f"As models widen, s·B·A·Z over W0·Z, of {_caption.counted(len(kinds), 'kind')} of layer: {'; '.join(parts)}.",
        f"Rates are {_caption.listed(starts)} at n = {grid.widths[0]}; W0·Z over Z scales as "
        f"{_range(next(iter(found.values())), FROZEN)}, and its exponent and the above add up to that of s·B·A·Z over Z.",
    ]


def _told(slopes: Slopes, kinds: list[str]) -> str:
    """`vanishes with width in 5, stable in 2`, the commonest first."""
    words = pd.Series([verdict(slopes[JUDGED, kind]) for kind in kinds]).value_counts()
    return ", ".join(f"{word} in {count}" for word, count in words.items())


def _range(slopes: Slopes, size: str) -> str:
    """`n^-0.90 to n^-0.10`, over the kinds."""
    values = [slope.value for (name, _), slope in slopes.items() if name == size and np.isfinite(slope.value)]
    ends = (
        dict.fromkeys(f"n^{round(end, 2) + 0.0:.2f}" for end in (min(values), max(values)))
        if values
        else ["no exponent"]
    )
    return " to ".join(ends)


def _sizes(grid: Grid) -> list[str]:
    """How large s·B·A·Z is, at one width and rate, and why there is no exponent."""
    rates, parts = _few(grid.lrs), []
    middle = rates[len(rates) // 2]
    for place, init in enumerate(grid.inits):
        found = [values[place, -1, grid.lrs == middle] for (size, _), values in grid.columns.items() if size == JUDGED]
        means = [mean for values in found if np.isfinite(mean := np.exp(np.log(values).mean()))]
        if means:
            parts.append(f"{_caption.number(min(means))} to {_caption.number(max(means))} under {label(init)}")
    sizes = f"s·B·A·Z over W0·Z is {_caption.listed(parts)}" if parts else "no run has measured sizes"
    few = f"they take {MIN_WIDTHS} widths"
    why = few if len(grid.widths) < MIN_WIDTHS else "rates at which all runs finished do not span the rules"
    return [
        f"At n = {grid.widths[-1]}, learning rate {_caption.number(middle)} and the last step, {sizes}, over kinds of layer.",
        f"There are no exponents in the width n: {why}.",
    ]

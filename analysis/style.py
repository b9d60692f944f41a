"""How every figure looks: one size of text, and one colour, marker and line per role, distinct also in greyscale.

Blue and orange are Init[A] and Init[B] and nothing else; every other role has a colour from MARKS, whose lightness differs.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from analysis import files

TEXT_WIDTH = 6.75  # inches, a paper's full text width; panels are given as fractions of it

RC = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Look:
    """Colours from Okabe and Ito's palette, safe for colour blindness; lightness differs between inits."""

    label: str
    color: str
    marker: str
    line: str


INITS = {
    "gaussian_A": Look("Init[A]", "#0072B2", "o", "-"),
    "gaussian_B": Look("Init[B]", "#E69F00", "s", "--"),
    "kaiming_A": Look("Init[A], uniform", "#004166", "^", (0, (5, 1, 1, 1))),
    "kaiming_B": Look("Init[B], uniform", "#A66F00", "D", (0, (1, 1))),
    "zero": Look("A = B = 0", "#7F7F7F", "x", ":"),
    "pretrained": Look("full finetuning", "#56B4E9", "P", (0, (3, 1, 1, 1))),
}

COLUMNS = {
    "grad/A": r"$\|\partial L/\partial A\|_F$",
    "grad/B": r"$\|\partial L/\partial B\|_F$",
    "feature/Z_A": r"size of $Z_A$",
    "feature/Z_B": r"size of $Z_B$",
    "feature/delta_1": r"$\delta_1 = s\,B\,\Delta A\,Z$",
    "feature/delta_2": r"$\delta_2 = s\,\Delta B\,A\,Z$",
    "feature/delta_3": r"$\delta_3 = s\,\Delta B\,\Delta A\,Z$",
    "relative/A": r"$\|\Delta A\|_F/\|A\|_F$",
    "relative/B": r"$\|\Delta B\|_F/\|B\|_F$",
    "train/loss": "training loss",
    "lr": "best learning rate",
}


# Of inits that have no look of their own, by their names.
OTHER_COLORS = ("#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#000000")
OTHER_MARKERS = ("v", "<", ">", "P", "X", "*", "p")
OTHERS = (OTHER_COLORS, OTHER_MARKERS, ("-", "--", "-.", ":"))

# All that is no init: black, wine, green and rose, which are told apart by colour-blind eyes and, by lightness, in greyscale.
MARKS = ("#000000", "#882255", "#2A9D6F", "#F0A0CC")
FACTORS = {
    "grad/A": Look(COLUMNS["grad/A"], MARKS[1], "^", "-"),
    "grad/B": Look(COLUMNS["grad/B"], MARKS[2], "v", "--"),
}
INCREMENTS = {
    "feature/delta_1": Look(COLUMNS["feature/delta_1"], MARKS[0], "o", "-"),
    "feature/delta_2": Look(COLUMNS["feature/delta_2"], MARKS[1], "s", "--"),
    "feature/delta_3": Look(COLUMNS["feature/delta_3"], MARKS[2], "^", ":"),
}
COORDINATES = {  # relative sizes
    "feature/Z_B": Look(r"$s\,B\,A\,Z$ over $W_0\,Z$", MARKS[0], "o", "-"),
    "feature/dZ_B": Look(r"its change in the last step, over $W_0\,Z$", MARKS[1], "s", "--"),
    "feature/Z_A": Look(r"$A\,Z$ over $Z$", MARKS[2], "^", "-."),
    "feature/Y0": Look(r"$W_0\,Z$ over $Z$", MARKS[3], "D", ":"),
}
KINDS = {
    "plain": Look("frozen weight as it was", MARKS[0], "o", "-"),
    "residual": Look("product taken from the frozen weight (loftq: rounded)", MARKS[1], "s", "-"),
    "data": Look("drawn from data", MARKS[2], "D", "-"),
    "both": Look("drawn from data, taken from the frozen weight", MARKS[3], "^", "-"),
}
SIDES = {  # of adapters: of the inits' families, hence in the inits' colours
    "A": Look("outer factor starts at zero (Init[A], vera_b0)", INITS["gaussian_A"].color, "o", "-"),
    "B": Look("inner factor starts at zero (Init[B], vera_d0)", INITS["gaussian_B"].color, "s", "-"),
    "": Look("another start", INITS["zero"].color, "D", "-"),
}
# Of a quarter of training each, from light to dark.
QUARTERS = tuple(
    Look("", color, marker, "-")
    for color, marker in zip(("#E3CFE0", "#BF93BA", "#8B4F86", "#3F1040"), "os^D", strict=True)
)
MAP = "cividis"  # of values without a sign
STAR = MARKS[3]


def look(init: str) -> Look:
    """The init's look; one that follows from its name if it has none in INITS."""
    number = zlib.crc32(init.encode())
    return INITS.get(init) or Look(init, *(choices[number % len(choices)] for choices in OTHERS))


def init_handles(inits: Iterable[str]) -> list[Line2D]:
    """For the legend of a whole figure."""
    return handles(look(init) for init in inits)


def handles(looks: Iterable[Look]) -> list[Line2D]:
    return [Line2D([], [], color=k.color, marker=k.marker, linestyle=k.line, label=k.label) for k in looks]


def subplots(
    rows: int, columns: int, height: float, width: float = 1.0, extra: float = 0.0, **options
) -> tuple[Figure, np.ndarray]:
    """A figure `width` text widths wide, `height` inches a row and `extra` inches for a legend, with a 2-D array of axes."""
    figure = Figure(figsize=(width * TEXT_WIDTH, height * rows + extra), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def wrapped(count: int, height: float, columns: int = 4, extra: float = 0.0, **options) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `columns` in a row and rows as alike as can be; one of few panels is narrower."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    width = {1: 0.55, 2: 0.85}.get(columns, 1.0)
    figure, axes = subplots(rows, columns, height, width, extra, **options)
    for panel in axes.flat[count:]:
        panel.remove()
    return figure, list(axes.flat[:count])


def legend_room(entries: int, columns: int = 1, free: int = 2) -> float:
    """Inches that a legend takes beyond the `free` lines for which a figure has room."""
    return 0.17 * max(0, -(-entries // columns) - free)


def label_rows(axes: list[Axes], ylabel: str) -> None:
    """Label the first panel of every row."""
    for panel in axes:
        if panel.get_subplotspec().is_first_col():
            panel.set_ylabel(ylabel)


def heading(figure: Figure, text: str) -> None:
    """One small line above all panels, on the left."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=7, color="0.25")


def width_axis(axes: Axes, widths: np.ndarray, label: str = "width $n$") -> None:
    """Logarithmic axis of widths with one tick each, labelled as far as there is room."""
    axes.set_xscale("log", base=2)
    letters = sum(len(str(width)) for width in widths)
    every = 1 + letters // 21
    labelled = {len(widths) - 1 - i for i in range(0, len(widths), every)}
    axes.set_xticks(widths, [str(width) if i in labelled else "" for i, width in enumerate(widths)])
    margin = (widths[-1] / widths[0]) ** 0.06 if len(widths) > 1 else 1.5
    axes.set_xlim(widths[0] / margin, widths[-1] * margin)
    axes.set_xlabel(label)


def rate_axis(axes: Axes, rates: np.ndarray, label: str = "learning rate") -> None:
    """Logarithmic axis of learning rates, labelled at powers of ten, or between them where there is none."""
    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_minor_formatter(NullFormatter())
    if 1 < rates[-1] / rates[0] < 30:
        few_ticks(axes.xaxis)


class FewTicks(Locator):
    """Two to five round numbers on a logarithmic axis, however much or little of it is in view."""

    DIGITS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))  # the last give long labels, of which few have room

    def __call__(self) -> np.ndarray:
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        low, high = sorted((vmin, vmax))
        if low <= 0:  # not yet logarithmic
            return np.array([])
        powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        for digits in self.DIGITS:
            ticks = np.outer(powers, digits).ravel()
            ticks = ticks[(low <= ticks) & (ticks <= high)]
            if len(ticks) > 1:
                return ticks[:: 1 + len(ticks) // (4 if digits == self.DIGITS[-1] else 6)]
        ticks = MaxNLocator(3).tick_values(low, high)
        return ticks[(low <= ticks) & (ticks <= high)]


def few_ticks(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis (or a colour bar's)."""
    axis.set_major_locator(FewTicks())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def log_y(axes: Axes, empty: str = "no value off\nthe grid's edge") -> None:
    """Logarithmic axis of values; a panel without a positive one says so instead."""
    if np.isfinite(axes.dataLim.minposy):
        axes.set_yscale("log")
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", color="0.4", fontsize=7)


def at_the_top(axes: Axes, rates: np.ndarray, height: float, look: Look) -> None:
    """Triangles near the upper edge, for rates at which runs broke down."""
    axes.plot(
        rates,
        np.full(len(rates), height),
        "^",
        color=look.color,
        markersize=5,
        markeredgecolor="black",
        markeredgewidth=0.4,
        clip_on=False,
        transform=axes.get_xaxis_transform(),
        label=f"{look.label}, broken down",
    )


def legend_below(axes: Axes, **options) -> None:
    """Legend under the axis label, where it can hide no data."""
    below = axes.transAxes + ScaledTranslation(0, -30 / 72, axes.figure.dpi_scale_trans)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, borderaxespad=0, **options)


def power_law(
    axes: Axes, widths: np.ndarray, logs: np.ndarray, power: float, label: str | None = None, **options
) -> None:
    """Guide ∝ n^power through the (geometric) middle of the measured points."""
    known = np.isfinite(logs)
    if not known.any():
        return
    offset = np.mean(logs[known] - power * np.log(widths[known]))
    axes.plot(widths, np.exp(offset + power * np.log(widths)), label=label, **options)


def save(figure: Figure, stem: Path, caption: str | None = None) -> None:
    """PDF and PNG, without the date, so that the same records give the same files, and the caption beside them (.md)."""
    if caption is not None:
        with files.written(stem.with_suffix(".md")) as new:
            new.write_text(f"{caption}\n")
    with mpl.rc_context(RC):
        for suffix, options in ((".pdf", {"metadata": {"CreationDate": None}}), (".png", {"dpi": 200})):
            with files.written(stem.with_suffix(suffix)) as new:
                figure.savefig(new, **options)

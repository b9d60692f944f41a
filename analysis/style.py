"""How every figure looks: one size of text, and one colour, marker and line per init, distinct also in greyscale."""

import zlib
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

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
}

COLUMNS = {
    "grad/A": r"$\|\partial L/\partial A\|_F$",
    "grad/B": r"$\|\partial L/\partial B\|_F$",
    "feature/Z_A": r"size of $Z_A$",
    "feature/Z_B": r"size of $Z_B$",
    "feature/delta_1": r"$\delta_1 = s\,B\,\Delta A\,Z$",
    "feature/delta_2": r"$\delta_2 = s\,\Delta B\,A\,Z$",
    "feature/delta_3": r"$\delta_3 = s\,\Delta B\,\Delta A\,Z$",
    "train/loss": "training loss",
    "lr": "best learning rate",
}


OTHERS = (  # of inits that have no look of their own, by their names
    ("#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#000000"), ("v", "<", ">", "P", "X", "*", "p"), ("-", "--", "-.", ":")
)  # fmt: skip


def look(init: str) -> Look:
    """The init's look; one that follows from its name if it has none in INITS."""
    number = zlib.crc32(init.encode())
    return INITS.get(init) or Look(init, *(choices[number % len(choices)] for choices in OTHERS))


def subplots(rows: int, columns: int, height: float, width: float = 1.0, **options) -> tuple[Figure, np.ndarray]:
    """A figure `width` text widths wide and `height` inches a row, with a 2-D array of axes."""
    figure = Figure(figsize=(width * TEXT_WIDTH, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def width_axis(axes: Axes, widths: np.ndarray, label: str = "width $n$") -> None:
    """Logarithmic axis of widths with one labelled tick each."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.set_xlabel(label)


def few_ticks(axis: Axis, decades: float) -> None:
    """Plain numbers on a logarithmic axis (or a colour bar's), a few to a decade where there are few decades."""
    subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs) if decades > 0.5 else MaxNLocator(3))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def log_y(axes: Axes) -> None:
    """Logarithmic axis of values; a panel without a positive one says so instead."""
    if np.isfinite(axes.dataLim.minposy):
        axes.set_yscale("log")
    else:
        axes.text(0.5, 0.5, "no data off the grid's edge", transform=axes.transAxes, ha="center", color="0.4")


def legend_below(axes: Axes) -> None:
    """Legend under the axis label, where it can hide no data."""
    below = axes.transAxes + ScaledTranslation(0, -30 / 72, axes.figure.dpi_scale_trans)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, borderaxespad=0)


def power_law(
    axes: Axes, widths: np.ndarray, logs: np.ndarray, power: float, label: str | None = None, **options
) -> None:
    """Guide ∝ n^power through the (geometric) middle of the measured points."""
    known = np.isfinite(logs)
    if not known.any():
        return
    offset = np.mean(logs[known] - power * np.log(widths[known]))
    axes.plot(widths, np.exp(offset + power * np.log(widths)), label=label, **options)


def save(figure: Figure, stem) -> None:
    """PDF and PNG, without the date, so that the same records give the same files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(RC):
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
        figure.savefig(stem.with_suffix(".png"), dpi=200)

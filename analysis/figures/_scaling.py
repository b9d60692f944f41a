"""What the figures against width share: points with intervals, the fitted power law, and the predicted one."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from analysis import style
from analysis.grid import Grid
from analysis.scaling import MIN_SEEDS, Estimate, bootstrap, exponent

Measure = Callable[[Grid, str], np.ndarray]


def against_width(
    axes: Axes,
    grid: Grid,
    powers: Mapping[str, float | None],
    measure: Measure,
    symbol: str = "n",
    axis: str = "width",
    short: bool = False,
    inits: Sequence[str] | None = None,
) -> None:
    """Measured values (exp of `measure(grid, init)` (W,)) against width, or what stands for it, for each init; log axes.

    Fits stand in the legend with their intervals; the predicted power of an init, where there is one, is drawn dotted, and
    has an entry of its own. A `short` legend leaves the inits' names to the figure's.
    """
    for init in grid.inits if inits is None else inits:
        look, power = style.look(init), powers.get(init)
        *points, slope = _measured(grid, init, measure)
        middle, low, high = (np.exp([getattr(p, name) for p in points]) for name in ("value", "low", "high"))
        theory = f"; ${symbol}^{{{power:g}}}$" if power is not None else ""
        fit = _fit(slope, symbol)
        axes.errorbar(
            grid.widths,
            middle,
            [np.maximum(middle - low, 0), np.maximum(high - middle, 0)],
            color=look.color,
            marker=look.marker,
            linestyle="none",
            elinewidth=0.9,
            capsize=2,
            label=(fit or "no fit") + theory if short else look.label + ": " * bool(fit) + fit,
        )
        style.power_law(axes, grid.widths, np.log(middle), slope.value, color=look.color, linestyle=look.line)
        if power is not None:
            style.power_law(
                axes,
                grid.widths,
                np.log(middle),
                power,
                color=look.color,
                linestyle=":",
                linewidth=1.0,
                label=None if short else f"theory, {look.label}: ${symbol}^{{{power:g}}}$",
            )
    style.width_axis(axes, grid.widths, f"{axis} ${symbol}$")
    style.log_y(axes)
    if axes.get_yscale() == "log":
        style.few_ticks(axes.yaxis)
    if short:
        title = "fit [95% interval]" if len(grid.seeds) >= MIN_SEEDS else "fit"
        title += "; theory" * any(power is not None for power in powers.values())
        style.legend_below(axes, title=title, title_fontsize=7, handlelength=1.2)
    else:
        style.legend_below(axes)


def _fit(slope: Estimate, symbol: str) -> str:
    """The fitted power with its interval, for a legend."""
    if np.isnan(slope.value):
        return ""
    interval = "" if np.isnan(slope.low) else f" [{slope.low:.2f}, {slope.high:.2f}]"
    return f"${symbol}^{{{slope.value:.2f}}}${interval}"


def not_fitted(axes: Axes, grid: Grid, measure: Measure, why: str | None = "") -> bool:
    """The grid's best rates, hollow, where `measure` gives none; whether there are any. `why` None: not in the legend."""
    found = False
    for init in grid.inits:
        look, rates = style.look(init), [grid.best(init, width).grid_lr for width in grid.widths]
        left = np.where(np.isnan(measure(grid, init)), rates, np.nan)
        if np.isfinite(left).any():
            label = None if why is None else f"{look.label}, not fitted{why}"
            axes.plot(grid.widths, left, look.marker, color=look.color, fillstyle="none", label=label)
            found = True
    if found and why is not None:
        style.legend_below(axes)
    return found


def _measured(grid: Grid, init: str, measure: Measure) -> list[Estimate]:
    """The value at every width, and their exponent last."""

    def values_and_slope(sample: Grid) -> np.ndarray:
        values = measure(sample, init)
        return np.append(values, exponent(sample.widths, values))

    return bootstrap(grid, values_and_slope)

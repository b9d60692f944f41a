"""What the figures of loss against learning rate share: a curve an init, its best rate, and breakdowns at the top edge."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures import _caption
from analysis.figures._message import contest, label
from analysis.grid import Grid
from analysis.scaling import MIN_SEEDS, Estimate, bootstrap
from analysis.tables.settings import is_full, without_baseline

Rates = Mapping[tuple[str, int], Estimate]
EDGE = "best rate at the grid's edge: the true one may lie beyond"
COLUMNS = 4


def best_rates(grid: Grid) -> Rates:
    """(init, width) -> log of the best learning rate with its interval."""
    cells = [(init, int(width)) for init in grid.inits for width in grid.widths]
    found = bootstrap(grid, lambda g: np.log([g.best(*cell).lr for cell in cells]))
    return dict(zip(cells, found, strict=True))


def frozen(frame: pd.DataFrame) -> dict[int, float]:
    """Width -> held-out loss of the frozen model, the mean over what the seeds hold out; none where it was not logged."""
    start = frame[frame["step"] == 0].groupby("task.width")["eval/loss"].mean().dropna()
    return {int(width): float(loss) for width, loss in start.items()}


def at_edge(grid: Grid, init: str, width: int) -> bool:
    """Whether there is a best rate, and at the grid's edge."""
    best = grid.best(init, width)
    return best.edge and bool(np.isfinite(best.log_loss))


def panels(frame: pd.DataFrame, ylabel: str, starts: Mapping[int, float] | None = None) -> Figure:
    """A panel a width. `starts`: losses of the frozen model, for panels of nats, which end just above the highest of them."""
    grid = Grid.of(frame)
    rates = best_rates(grid)
    height = 2.3 if len(grid.widths) > 2 else 2.6
    fig, axes = style.wrapped(len(grid.widths), height, COLUMNS, extra=0.55, sharey=True)
    broken = [curves(panel, grid, width, rates, starts) for panel, width in zip(axes, grid.widths, strict=True)]
    for panel, width in zip(axes, grid.widths, strict=True):
        panel.set_title(f"$n = {width}$")
    value_axes(axes, grid, starts)
    style.label_rows(axes, ylabel)
    edge = any(at_edge(grid, init, width) for init in grid.inits for width in grid.widths)
    legend_below(fig, legend_entries(grid, any(broken), edge, starts))
    style.heading(fig, _caption.short(frame, _caption.short_bands(frame)))
    return fig


def curves(panel: Axes, grid: Grid, width: int, rates: Rates, starts: Mapping[int, float] | None = None) -> bool:
    """Every init's curve and best rate at a width; whether any of its runs broke down."""
    ceiling = starts[width] if starts and width in starts else np.inf
    broken = False
    for offset, init in enumerate(grid.inits):
        _curve(panel, grid, init, width)
        _best(panel, grid, init, width, rates[init, width])
        losses = grid.log_loss[grid.at(init, width)]  # (L, S)
        down = np.isposinf(losses).any(1) | (losses.mean(1) > np.log(ceiling))
        broken |= bool(down.any())
        if down.any():
            height = 1.0 - min(0.05, 0.3 / len(grid.inits)) * offset
            style.at_the_top(panel, grid.lrs[down], height, style.look(init))
    if np.isfinite(ceiling):
        panel.axhline(ceiling, color="0.4", linestyle=":", linewidth=1.0, label="frozen model")
    style.rate_axis(panel, grid.lrs)
    return broken


def value_axes(axes: list[Axes], grid: Grid, starts: Mapping[int, float] | None) -> None:
    """Logarithmic, or in nats: then panels end just above the frozen model's loss, below which lies all that one would use."""
    if starts is None:
        for panel in axes:
            style.log_y(panel, empty="all runs diverged")
        return
    top = max(starts.values(), default=np.nan)
    finite = grid.log_loss[np.isfinite(grid.log_loss)]
    lowest = np.exp(finite.min()) if len(finite) else np.nan
    if lowest < top:
        for panel in axes:
            panel.set_ylim(lowest - 0.08 * (top - lowest), top + 0.15 * (top - lowest))


def legend_entries(grid: Grid, broken: bool, edge: bool, starts: Mapping[int, float] | None) -> list[Line2D]:
    """Handles of what the panels show."""
    found = style.init_handles(grid.inits)
    grey = {"color": "0.4", "linestyle": "none", "markeredgecolor": "black"}
    bar = ", with its 95% interval" if len(grid.seeds) >= MIN_SEEDS else ""
    found.append(Line2D([], [], marker="o", markersize=5.5, label=f"best rate{bar}", **grey))
    if edge:
        found.append(Line2D([], [], marker="o", markersize=5.5, fillstyle="none", label=EDGE, **grey))
    if broken:
        why = "some seeds diverged" if starts is None else "ends above the frozen model, or some seeds diverged"
        found.append(Line2D([], [], marker="^", markersize=5, markeredgewidth=0.4, label=why, **grey))
    if starts:
        found.append(Line2D([], [], color="0.4", linestyle=":", linewidth=1.0, label="frozen model"))
    return found


def legend_below(figure: Figure, handles: list[Line2D]) -> None:
    """One for all panels, below them, for which the figure grows."""
    letters = max(len(handle.get_label()) for handle in handles)
    most = 1 if figure.get_figwidth() < style.TEXT_WIDTH else 3 if letters < len(EDGE) or len(handles) < 5 else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=most)
    figure.set_figheight(figure.get_figheight() + style.legend_room(len(handles), most))


def _curve(panel: Axes, grid: Grid, init: str, width: int) -> None:
    """Geometric mean and range over the seeds that did not diverge."""
    look, losses = style.look(init), grid.log_loss[grid.at(init, width)]  # (L, S)
    finite = np.where(np.isfinite(losses), losses, np.nan)
    known = np.isfinite(finite).any(1)
    middle = np.exp(np.nanmean(finite[known], axis=1))
    low, high = (np.exp(f(finite[known], axis=1)) for f in (np.nanmin, np.nanmax))
    lrs = grid.lrs[known]
    panel.fill_between(lrs, low, high, color=look.color, alpha=0.25, linewidth=0)
    panel.plot(lrs, middle, color=look.color, marker=look.marker, linestyle=look.line, markersize=3, label=look.label)


def _best(panel: Axes, grid: Grid, init: str, width: int, rate: Estimate) -> None:
    """The best rate with its interval, at the best loss of the grid; hollow at the grid's edge."""
    look, best = style.look(init), grid.best(init, width)
    if not np.isfinite(best.log_loss):
        return
    value, low, high = np.exp([rate.value, rate.low, rate.high])
    bar = [[max(value - low, 0)], [max(high - value, 0)]] if np.isfinite(low) else None
    panel.errorbar(
        value,
        np.exp(best.log_loss),
        xerr=bar,
        ecolor="black",
        elinewidth=1.0,
        capsize=3,
        marker=look.marker,
        color="white" if best.edge else look.color,
        markeredgecolor=look.color if best.edge else "black",
        markeredgewidth=1.2 if best.edge else 0.7,
        markersize=5.5,
        zorder=5,
        label=f"{look.label}, best",
    )


def message(frame: pd.DataFrame, nats: bool) -> list[str]:
    """Sentences on which init ends lower, at the widest width and at how many of all, and on full finetuning."""
    grid = Grid.of(without_baseline(frame))
    found = [contest(grid, int(width), nats) for width in grid.widths]
    sentences = [found[-1].sentence]
    if len(found) > 1:
        wins = {init: [f.width for f in found if f.decided and f.inits[0] == init] for init in grid.inits}
        parts = [f"{label(init)} at n = {_caption.listed(widths)}" for init, widths in wins.items() if widths]
        decided = f"{sum(map(len, wins.values()))} of {len(found)} widths: {'; '.join(parts)}"
        at = decided if parts else f"none of the {len(found)} widths"
        sentences.append(f"The seeds decide which ends lower at {at}.")
    if 0 < is_full(frame).sum() < len(frame) and found[-1].inits:
        against = frame[is_full(frame) | (frame["init.name"] == found[-1].inits[0])]
        sentences.append(contest(Grid.of(against), int(grid.widths[-1]), nats).sentence)
    return sentences


def explained(frame: pd.DataFrame, nats: bool) -> list[str]:
    """Sentences on what is drawn."""
    marks = "a triangle at the top edge marks a rate at which some seeds diverged" + (
        ", or at which runs end above the frozen model (dotted), where the panels are cut off" if nats else ""
    )
    return [
        f"Large marks are best learning rates (hollow: at the grid's edge), and {marks}.",
        _caption.runs(frame),
        _caption.joined(_caption.bands(frame), _caption.bars(frame, "bars on the best rates and brackets")),
    ]

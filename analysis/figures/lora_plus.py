"""LoRA+: final loss over the learning rates of A and of B, where it diverges, and its best ratio."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import style
from analysis.figures import _caption
from analysis.figures._needs import TWO_RATES, Need
from analysis.grid import Grid, log_losses, loss_name, split
from analysis.scaling import MIN_SEEDS, Estimate, best_ratio, best_ratios
from analysis.tables.load import per_run

RECORDS = ("lora_plus",)
AXES = ("task.name", "optimizer.lr_ratio")
NEEDS = (Need("optimizer.lr_ratio", 2, "optimizer.lr_ratio=1,4,16"), TWO_RATES)
COLUMNS = 3
UNDETERMINED = "best ratio undetermined"


def figure(frame: pd.DataFrame) -> Figure:
    parts = [(*names, part) for names, part in split(frame, ["task.name", "init.name"]).items()]
    fig, axes = style.wrapped(len(parts), height=2.75, columns=COLUMNS, extra=0.3)
    norms = {task: _norm(part) for (task,), part in split(frame, ["task.name"]).items()}
    for panel, (task, init, part) in zip(axes, parts, strict=True):
        _map(panel, fig, part, norms[task])
        panel.set_title(f"{task}, {_name(init)}\n{_ratio(part, init)}")
    style.label_rows(axes, "learning rate of B")
    star = {"color": style.STAR, "marker": "*", "markersize": 9, "markeredgecolor": "black", "markeredgewidth": 0.6}
    handles = [
        Line2D([], [], linestyle="none", label="lowest loss", **star),
        Patch(facecolor="white", hatch="////", edgecolor="0.7", linewidth=0, label="some seeds diverged"),
        Line2D([], [], color="0.2", linestyle="--", linewidth=0.8, label="one rate for both"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    style.heading(fig, f"{_caption.short(frame, 'means over seeds', _caption.short_bars(frame))}")
    return fig


def caption(frame: pd.DataFrame) -> str:
    found = [
        f"{_ratio(part, init)} on {task} with {_name(init)}"
        for (task, init), part in split(frame, ["task.name", "init.name"]).items()
    ]
    return _caption.lines(
        f"B's learning rate over A's, where the final loss is lowest: {'; '.join(found)}.",
        "A best ratio is undetermined if its interval reaches the lowest ratio that was tried, or the highest, and does not "
        "lie on one side of 1: it may then lie beyond all of them, wherever the star is.",
        _caption.runs(frame),
        "Colours are geometric means over seeds, one scale a task, cut off above the 90th percentile.",
        _caption.bars(frame, "brackets"),
    )


def _name(init: str) -> str:
    return "A, B random" if init == "gaussian_AB" else style.look(init).label


def _ratio(frame: pd.DataFrame, init: str) -> str:
    """`best ratio 34 [12, 118]`, what bounds it, or why there is none."""
    grid = Grid.along(frame, "optimizer.lr_ratio")
    if not np.isfinite(grid.log_loss).any():
        return "every run diverged"
    if np.isnan(best_ratio(grid, init)):
        return "best rates at the grid's edge"
    return told(best_ratios(grid, init), grid)


def told(best: Estimate, grid: Grid) -> str:
    """The best ratio as far as its interval, of logs, tells: an end at the lowest or the highest ratio tried is no end."""
    if np.isnan(best.value) or (np.isnan(best.low) and len(grid.seeds) >= MIN_SEEDS):
        return UNDETERMINED
    lowest, highest = np.log(grid.widths[[0, -1]])
    below, above = best.low < lowest + 1e-9, best.high > highest - 1e-9  # both False where there is no interval
    if above and not below and best.low > 0:
        return f"best ratio above {_caption.number(np.exp(best.low))}"
    if below and not above and best.high < 0:
        return f"best ratio below {_caption.number(np.exp(best.high))}"
    return UNDETERMINED if below or above else f"best ratio {_caption.ratio(best)}"


def _means(frame: pd.DataFrame) -> pd.Series:
    """Mean over seeds of the log of the final loss, by init and rates; +inf where a seed diverged."""
    table = per_run(frame)
    cells = table.assign(log=log_losses(table), lr_B=table["optimizer.lr"] * table["optimizer.lr_ratio"])
    return cells.groupby(["init.name", "lr_B", "optimizer.lr"])["log"].mean()


def _norm(frame: pd.DataFrame) -> LogNorm | None:
    """One scale of colours for all inits on a task."""
    means = _means(frame)
    finite = np.exp(means[np.isfinite(means)])
    low, high = (finite.min(), finite.quantile(0.9)) if len(finite) else (1.0, 1.0)
    return LogNorm(low, high) if low < high else None


def _map(panel: Axes, fig: Figure, frame: pd.DataFrame, norm: LogNorm | None) -> None:
    """A cell a pair of rates, the lowest of all, and the line of one rate for both."""
    means = _means(frame).droplevel("init.name").unstack()
    cells = means.stack(future_stack=True).dropna()
    width, height = _spacing(frame["optimizer.lr"]), _spacing(frame["optimizer.lr_ratio"])  # cells of a column touch
    style.rate_axis(panel, np.sort(frame["optimizer.lr"].unique()), "learning rate of A")
    panel.set_yscale("log")
    for (lr_B, lr_A), value in cells.items():
        x = np.exp(np.log(lr_A) + np.array([-0.5, 0.5]) * width)
        y = np.exp(np.log(lr_B) + np.array([-0.5, 0.5]) * height)
        if np.isposinf(value):
            panel.fill_between(x, y[0], y[1], facecolor="1.0", hatch="////", edgecolor="0.7", linewidth=0)
        else:
            mesh = panel.pcolormesh(x, y, [[np.exp(value)]], norm=norm, cmap=f"{style.MAP}_r", rasterized=True)
    if np.isfinite(cells).any():
        (lr_B, lr_A) = cells.idxmin()
        panel.plot(lr_A, lr_B, "*", color=style.STAR, markersize=9, markeredgecolor="black", markeredgewidth=0.6)
        bar = fig.colorbar(mesh, ax=panel, location="bottom", label=f"final {loss_name(frame)}", extend="max", pad=0.02)
        style.few_ticks(bar.ax.xaxis)
    low, high = float(means.columns.min()), float(means.columns.max())
    panel.plot([low, high], [low, high], color="0.2", linestyle="--", linewidth=0.8)
    panel.set_ylim(float(means.index.min()) / 2, float(means.index.max()) * 2)


def _spacing(values: pd.Series) -> float:
    """Distance of neighbours on a logarithmic axis."""
    logs = np.log(np.sort(values.unique()))
    return float(np.diff(logs).min()) if len(logs) > 1 else 1.0

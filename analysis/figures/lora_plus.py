"""LoRA+: final loss over the learning rates of A and of B, where it diverges, and its best ratio."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from analysis import style
from analysis.grid import Grid, split
from analysis.load import per_run
from analysis.scaling import best_ratios

RECORDS = ("lora_plus",)
AXES = ("task.name", "optimizer.lr_ratio")


def figure(frame: pd.DataFrame) -> Figure:
    parts = [(*names, part) for names, part in split(frame, ["task.name", "init.name"]).items()]
    fig, [axes] = style.subplots(1, len(parts), height=2.9)
    norms = {task: _norm(part) for (task,), part in split(frame, ["task.name"]).items()}
    for panel, (task, init, part) in zip(axes, parts, strict=True):
        _map(panel, fig, part, norms[task])
        grid = Grid.along(part, "optimizer.lr_ratio")
        best = best_ratios(grid, init)
        value, low, high = np.exp([best.value, best.low, best.high])
        interval = "" if np.isnan(low) else f" [{low:.3g}, {high:.3g}]"
        name = style.look(init).label if init in style.INITS else "A, B random"
        ratio = f"best ratio {value:.3g}{interval}" if np.isfinite(value) else "best rates at the grid's edge"
        panel.set_title(f"{task}, {name}\n{ratio}")
    axes[0].set_ylabel("learning rate of B")
    return fig


def _means(frame: pd.DataFrame) -> pd.Series:
    """Mean over seeds of the log of the final loss, by init and rates; +inf where a seed diverged."""
    table = per_run(frame)
    losses = np.where(table["status"] == "diverged", np.inf, table["summary.final_loss"])
    cells = table.assign(log=np.log(losses), lr_B=table["optimizer.lr"] * table["optimizer.lr_ratio"])
    return cells.groupby(["init.name", "lr_B", "optimizer.lr"])["log"].mean()


def _norm(frame: pd.DataFrame) -> LogNorm | None:
    """One scale of colours for all inits on a task."""
    means = _means(frame)
    finite = np.exp(means[np.isfinite(means)])
    low, high = (finite.min(), finite.quantile(0.9)) if len(finite) else (1.0, 1.0)
    return LogNorm(low, high) if low < high else None


def _map(panel: Axes, fig: Figure, frame: pd.DataFrame, norm: LogNorm | None) -> None:
    means = _means(frame).droplevel("init.name").unstack()
    width, height = (
        _spacing(frame["optimizer.lr"]),
        _spacing(frame["optimizer.lr_ratio"]),
    )  # so that cells of a column touch
    panel.set(xscale="log", yscale="log", xlabel="learning rate of A")
    for (lr_B, lr_A), value in means.stack(future_stack=True).dropna().items():
        x = np.exp(np.log(lr_A) + np.array([-0.5, 0.5]) * width)
        y = np.exp(np.log(lr_B) + np.array([-0.5, 0.5]) * height)
        if np.isposinf(value):
            panel.fill_between(x, y[0], y[1], facecolor="1.0", hatch="////", edgecolor="0.7", linewidth=0)
        else:
            mesh = panel.pcolormesh(x, y, [[np.exp(value)]], norm=norm, cmap="cividis_r", rasterized=True)
    if np.isfinite(means).any(axis=None):
        (lr_B, lr_A) = means.stack(future_stack=True).idxmin()
        panel.plot(lr_A, lr_B, "*", color="#D55E00", markersize=9, markeredgecolor="white", markeredgewidth=0.6)
        bar = fig.colorbar(mesh, ax=panel, location="bottom", label="final training loss", extend="max", pad=0.02)
        style.few_ticks(bar.ax.xaxis, np.log10(mesh.norm.vmax / mesh.norm.vmin) if norm else 1)
    low, high = float(means.columns.min()), float(means.columns.max())
    panel.plot([low, high], [low, high], color="0.2", linestyle="--", linewidth=0.8)
    panel.set_ylim(float(means.index.min()) / 2, float(means.index.max()) * 8)
    panel.text(
        0.03,
        0.97,
        "hatched: a seed diverged\ndashed: one rate for both",
        transform=panel.transAxes,
        va="top",
        fontsize=6,
    )


def _spacing(values: pd.Series) -> float:
    """Distance of neighbours on a logarithmic axis."""
    logs = np.log(np.sort(values.unique()))
    return float(np.diff(logs).min()) if len(logs) > 1 else 1.0

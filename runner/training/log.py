"""What a stack remembers of its training: buffers on the device, turned into one table and one summary per run."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from runner.config import Config
from runner.training.measure.metrics import is_increment
from runner.training.measure.sharpness import COLUMNS, EARLY, Look


class Log:
    """Losses of every step and metrics of every logged step, for K runs that share `steps`, `log` and `eval`.

    A step has a row if `log.every`, `eval.every` or `sharpness.every` divides it, or if it is the last. Metrics are means over
    the layers; with `log.layers` each layer's are stored too. A column that was not measured in a row (increments in the last
    one, evaluations and sharpness between their steps, intruder dimensions in all but the last) holds nan, which plots as a gap.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        layers: Sequence[str],
        columns: Sequence[str],
        evals: Sequence[str],
        device: torch.device,
    ):
        shared = configs[0]
        self.layers, self.columns = layers, columns
        self.rows = [
            t
            for t in range(shared.steps + 1)
            if t % shared.log.every == 0 or self.evaluates(shared, t) or self.look(shared, t) or t == shared.steps
        ]
        self.index = {step: row for row, step in enumerate(self.rows)}
        self.losses = torch.full((shared.steps + 1, len(configs)), torch.nan, dtype=torch.float64, device=device)
        self.evals = {name: self.losses.new_full((len(self.rows), len(configs)), torch.nan) for name in evals}
        self.metrics = self.losses.new_full((len(self.rows), len(columns), len(configs)), torch.nan)
        looks = COLUMNS if shared.sharpness.every else ()
        self.sharpness = {name: self.losses.new_full((len(self.rows), len(configs)), torch.nan) for name in looks}
        n_layers = len(layers) if shared.log.layers else 0
        self.by_layer = self.losses.new_full((len(self.rows), n_layers, len(columns), len(configs)), torch.nan)

    @staticmethod
    def evaluates(config: Config, step: int) -> bool:
        return step % config.eval.every == 0 or step == config.steps

    @staticmethod
    def look(config: Config, step: int) -> Look | None:
        """What is measured around this step's update of how sharp the loss is."""
        every, eigenvalues = config.sharpness.every, config.sharpness.eigenvalues
        if every is None or step % every or step == config.steps:
            return None
        look = step // every
        if look % eigenvalues == 0:
            return Look.ALL if look else Look.FIRST
        return Look.EARLY if look < EARLY else Look.RATE

    def has_row(self, step: int) -> bool:
        return step in self.index

    def lost(self, step: Tensor, runs: Tensor, losses: Tensor) -> None:
        """Keep the losses (k,) of these runs (k,) at a step (1,)."""
        self.losses[step, runs] = losses.double()

    def evaluated(self, row: Tensor, runs: Tensor, values: dict[str, Tensor]) -> None:
        """Keep evaluations (k,) of these runs in a row (1,)."""
        for name, value in values.items():
            self.evals[name][row, runs] = value.double()

    def sharp(self, row: Tensor, runs: Tensor, values: Tensor) -> None:
        """Keep what was measured of the sharpness (columns, k) of these runs in a row (1,)."""
        for column, value in zip(self.sharpness.values(), values, strict=True):
            column[row, runs] = value

    def measured(self, row: Tensor, runs: Tensor, metrics: Tensor) -> None:
        """Keep metrics (layers, columns, k) of these runs in a row (1,)."""
        self.metrics[row, :, runs] = metrics.mean(0).T
        if self.by_layer.shape[1]:
            self.by_layer[row, :, :, runs] = metrics.permute(2, 0, 1)

    def ended(self, column: str, runs: Tensor, values: Tensor) -> None:
        """Keep what is measured at the end alone (layers, k) of these runs, in the last row."""
        place = self.columns.index(column)
        self.metrics[-1, place, runs] = values.mean(0)
        if self.by_layer.shape[1]:
            self.by_layer[-1, :, place, runs] = values

    def between(self, first: int, ends: Sequence[int]) -> list[pd.DataFrame]:
        """One table per run: `step`, losses and metrics of its rows from step `first` on and before its end."""
        steps = np.array(self.rows)
        start, stop = np.searchsorted(steps, [first, max(first, *ends)])
        steps = steps[start:stop]
        losses = {"train/loss": self.losses[steps].cpu().numpy()}
        by_row = self.evals | self.sharpness
        losses |= {name: values[start:stop].cpu().numpy() for name, values in by_row.items()}
        metrics, tables = self.metrics[start:stop].cpu().numpy(), []
        for k, end in enumerate(ends):
            n_rows = int(np.searchsorted(steps, end))
            columns = {name: values[:n_rows, k] for name, values in losses.items()}
            columns |= {name: metrics[:n_rows, i, k] for i, name in enumerate(self.columns)}
            tables.append(
                pd.DataFrame({"step": steps[:n_rows]} | columns).copy()
            )  # the buffers change as training goes on
        return tables

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything remembered so far."""
        by_row = self.evals | self.sharpness
        return {"losses": self.losses, **by_row, "metrics": self.metrics, "by_layer": self.by_layer}

    def tables(self, ends: Sequence[int]) -> list[tuple[pd.DataFrame, pd.DataFrame | None]]:
        """Two tables per run, without rows after its end: `step`, the losses, then the metrics; and with `log.layers`
        `step`, `layer` and the layer's metrics."""
        steps = np.array(self.rows)
        losses = {"train/loss": self.losses[self.rows].cpu().numpy()}
        losses |= {name: values.cpu().numpy() for name, values in (self.evals | self.sharpness).items()}
        metrics, by_layer = self.metrics.cpu().numpy(), self.by_layer.cpu().numpy()
        increments = [i for i, name in enumerate(self.columns) if is_increment(name)]
        tables = []
        for k, end in enumerate(ends):
            n_rows = int(np.searchsorted(steps, end, side="right"))
            # A run that has ended makes no update, though a diverged one goes on in its stack; its records must not show it.
            if steps[n_rows - 1] == end:
                metrics[n_rows - 1, increments, k] = np.nan
                by_layer[n_rows - 1, :, increments, k] = np.nan
                for name in self.sharpness:
                    losses[name][n_rows - 1, k] = np.nan
            columns = {name: values[:n_rows, k] for name, values in losses.items()}
            columns |= {name: metrics[:n_rows, i, k] for i, name in enumerate(self.columns)}
            frame, layers = pd.DataFrame({"step": steps[:n_rows]} | columns), None
            if len(by_layer[0]):
                rows = {"step": np.repeat(steps[:n_rows], len(self.layers)), "layer": list(self.layers) * n_rows}
                layers = pd.DataFrame(
                    rows | {n: by_layer[:n_rows, :, i, k].ravel() for i, n in enumerate(self.columns)}
                )
            tables.append((frame, layers))
        return tables


def count_rows(config: Config) -> int:
    """How many rows the log of a run has."""
    periods = [every for every in (config.log.every, config.eval.every, config.sharpness.every) if every]
    some = (each for size in range(1, len(periods) + 1) for each in combinations(periods, size))
    among = sum((-1) ** (len(each) + 1) * (config.steps // math.lcm(*each)) for each in some)
    return among + 1 + all(config.steps % every for every in periods)  # step 0 has one, and so has the last


def summarise(losses: np.ndarray, evals: dict[str, np.ndarray], diverged_step: int | None) -> dict[str, Any]:
    """A run in a few numbers. `losses` has one entry per step up to the run's end, each of `evals` those measured.

    Initial values are those before any update; final ones are null for a diverged run; the best of an evaluation is its
    lowest loss or its highest accuracy.
    largest_spike = max over t of (loss_t - lowest loss before t) / initial loss, 0 for a loss that never rose, null where
    it is not finite; rise_fraction = share of steps on which the loss rose.
    """
    heights = np.where(np.isnan(losses), np.inf, losses)
    risen = heights[1:] > heights[:-1]
    lowest = np.minimum.accumulate(heights)[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        spike = np.max(np.where(risen, heights[1:] - lowest, 0.0) / heights[0], initial=0.0)
    evaluations = {}
    for name, values in evals.items():
        seen, short = values[np.isfinite(values)], name.replace("eval/", "eval_")
        best = (np.max if name == "eval/accuracy" else np.min)(seen) if len(seen) else np.nan
        evaluations[f"initial_{short}"] = _number(values[0])
        evaluations[f"final_{short}"] = _number(values[-1]) if diverged_step is None else None
        evaluations[f"best_{short}"] = _number(best)
    return {
        "initial_loss": _number(losses[0]),
        "final_loss": _number(losses[-1]) if diverged_step is None else None,
        "best_loss": _number(heights.min()),
        **evaluations,
        "diverged_step": diverged_step,
        "largest_spike": _number(spike),
        "rise_fraction": float(risen.mean()) if len(risen) else 0.0,
    }


def _number(value: float) -> float | None:
    """JSON has no nan or inf: null instead."""
    return float(value) if np.isfinite(value) else None

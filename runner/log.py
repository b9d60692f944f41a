"""What a stack remembers of its training: buffers on the device, turned into one table and one summary per run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from runner.metrics import COLUMNS, INCREMENTS
from runner.schema import Config


class Log:
    """Losses of every step and metrics of every logged step, for K runs that share `steps`, `log` and `eval`.

    A step has a row if `log.every` or `eval.every` divides it, or if it is the last. A column that was not measured in a
    row (increments in the last one, `eval/loss` between evaluations) holds nan, which plots as a gap.
    """

    def __init__(self, configs: Sequence[Config], device: torch.device):
        shared = configs[0]
        self.rows = [
            t
            for t in range(shared.steps + 1)
            if t % shared.log.every == 0 or self.evaluates(shared, t) or t == shared.steps
        ]
        self.index = {step: row for row, step in enumerate(self.rows)}
        self.losses = torch.full((shared.steps + 1, len(configs)), torch.nan, dtype=torch.float64, device=device)
        self.evals = torch.full((len(self.rows), len(configs)), torch.nan, dtype=torch.float64, device=device)
        self.metrics = self.evals.new_full((len(self.rows), len(COLUMNS), len(configs)), torch.nan)

    @staticmethod
    def evaluates(config: Config, step: int) -> bool:
        return step % config.eval.every == 0 or step == config.steps

    def wants(self, step: int) -> bool:
        return step in self.index

    def at(self, step: int) -> Tensor:
        """The place (columns, K) of a step's metrics, to be filled in."""
        return self.metrics[self.index[step]]

    def frames(self, ends: Sequence[int]) -> list[pd.DataFrame]:
        """One table per run: `step`, the losses, then the metrics; rows after the run's end are left out."""
        steps = np.array(self.rows)
        columns = {
            "train/loss": self.losses[self.rows].cpu().numpy(),
            "eval/loss": self.evals.cpu().numpy(),
            **dict(zip(COLUMNS, self.metrics.transpose(0, 1).cpu().numpy(), strict=True)),
        }
        frames = []
        for k, end in enumerate(ends):
            kept = int(np.searchsorted(steps, end, side="right"))
            # A run that has ended makes no update, though a diverged one goes on in its stack; its records must not tell.
            for name in INCREMENTS if steps[kept - 1] == end else ():
                columns[name][kept - 1, k] = np.nan
            frames.append(
                pd.DataFrame({"step": steps[:kept]} | {name: values[:kept, k] for name, values in columns.items()})
            )
        return frames


def summarise(losses: np.ndarray, eval_losses: np.ndarray, diverged_step: int | None) -> dict[str, Any]:
    """A run in a few numbers. `losses` has one entry per step up to the run's end, `eval_losses` those measured.

    Final losses are null for a diverged run. largest_spike = max over t of (loss_t - lowest loss before t) / initial loss,
    0 for a loss that never rose, null where it is not finite; rise_fraction = share of steps on which the loss rose.
    """
    heights = np.where(np.isnan(losses), np.inf, losses)
    risen = heights[1:] > heights[:-1]
    lowest = np.minimum.accumulate(heights)[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        spike = np.max(np.where(risen, heights[1:] - lowest, 0.0) / heights[0], initial=0.0)
    seen = eval_losses[np.isfinite(eval_losses)]
    return {
        "initial_loss": _number(losses[0]),
        "final_loss": _number(losses[-1]) if diverged_step is None else None,
        "best_loss": _number(heights.min()),
        "final_eval_loss": _number(eval_losses[-1]) if diverged_step is None else None,
        "best_eval_loss": _number(seen.min()) if len(seen) else None,
        "diverged_step": diverged_step,
        "largest_spike": _number(spike),
        "rise_fraction": float(risen.mean()) if len(risen) else 0.0,
    }


def _number(value: float) -> float | None:
    """JSON has no nan or inf: null instead."""
    return float(value) if np.isfinite(value) else None

"""The end of a sweep in a table: what became of the runs, the best learning rates, and what to type next."""

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from runner.config import CONF, run_id
from runner.schema import Config
from runner.store import DIVERGED, FAILED, FINISHED, INTERRUPTED
from runner.tasks import TASKS

SKIPPED = "skipped"


@dataclass
class Results:
    """One row per run of the sweep: what it was, how it ended, its final loss (held out, where tasks go by that)."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, config: Config, status: str, summary: dict[str, Any] | None = None, error: str | None = None) -> None:
        self.rows.append(
            {
                "run_id": run_id(config),
                "experiment": config.experiment,
                "task": " ".join(filter(None, (config.task.name, Path(getattr(config.task, "model", "")).name))),
                "adapter": config.adapter.name,
                "init": config.init.name if config.adapter.start_from is None else Path(config.adapter.start_from).name,
                "width": config.task.width,
                "lr": config.optimizer.lr,
                "status": status,
                "error": error,
                "loss": (summary or {}).get(TASKS[config.task.name].objective),
            }
        )

    def told(self) -> set[str]:
        """(experiment, run_id) of the runs that have a row."""
        return {(row["experiment"], row["run_id"]) for row in self.rows}

    def count(self, status: str) -> int:
        return sum(row["status"] == status for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0, 1 (failures) or 130 (Ctrl-C)."""
        if self.count(INTERRUPTED):
            return 130
        return 1 if self.count(FAILED) else 0


def print_report(results: Results, outputs: str) -> None:
    """To stdout; one command's worth of runs."""
    counts = [(status, results.count(status)) for status in (FINISHED, DIVERGED, FAILED, INTERRUPTED, SKIPPED)]
    print(f"{len(results.rows)} runs: " + ", ".join(f"{count} {status}" for status, count in counts if count))
    if results.count(SKIPPED):
        print("  skipped: finished or diverged before; delete a run's folder to train it again")
    for error in sorted({row["error"] for row in results.rows if row["status"] == FAILED}):
        print(f"  failed: {error}")
    if results.count(INTERRUPTED):
        print("  interrupted: the same command trains what is left")
    table = best_learning_rates(pd.DataFrame(results.rows))
    if not table.empty:
        print(table.to_string(index=False))
    experiment = results.rows[0]["experiment"]
    only = results.rows[0]["run_id"] if len(results.rows) == 1 else ""
    print(f"files: {Path(outputs) / 'runs' / experiment / only}")
    print(f"next:  {_next_command(experiment, outputs)}")


def _next_command(experiment: str, outputs: str) -> str:
    """Experiments with a file in conf/experiment have figures of their own; others are drawn with any figure."""
    where = "" if Path(outputs) == Path("outputs") else f" --outputs {shlex.quote(outputs)}"
    if (CONF / "experiment" / f"{experiment}.yaml").exists():
        return f"python -m analysis{where}"
    return f"python -m analysis gradient_norms feature_norms --experiment {experiment}{where}"


def best_learning_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Per task, adapter, init and width: the grid's learning rate with the lowest geometric-mean final loss over the other axes.

    A learning rate at which any run has no final loss (it diverged, failed or is missing) does not compete.
    """
    with np.errstate(divide="ignore"):  # a final loss of 0 has the lowest logarithm of all
        rows = rows.assign(log_loss=np.log(rows["loss"].astype(float)))
    best = []
    for key, group in rows.groupby(["task", "adapter", "init", "width"], sort=True):
        scores = group.groupby("lr")["log_loss"].agg(lambda x: x.mean(skipna=False)).dropna()
        if scores.empty:
            continue
        lrs, lr = sorted(group["lr"].unique()), scores.idxmin()
        edge = "edge of the grid" if len(lrs) > 1 and lr in (lrs[0], lrs[-1]) else ""
        best.append([*key, f"{lr:.3g}", f"{math.exp(scores[lr]):.3g}", len(lrs), edge])
    return pd.DataFrame(best, columns=["task", "adapter", "init", "width", "best lr", "final loss", "lrs", ""])

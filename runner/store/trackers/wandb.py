"""Weights & Biases: one W&B run a run, several alive in one process. It is imported only when it is chosen."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from runner.config import Config, ConfigError
from runner.config.identity import as_dict, run_id
from runner.config.options import choices, option
from runner.config.schema import TrackerOptions
from runner.store.runs import DONE, Outcome
from runner.store.trackers.base import Tracker, tracker


@dataclass
class WandbOptions(TrackerOptions):
    project: str = option("the W&B project")
    entity: str | None = option("null: your default entity")
    mode: str = option(
        "offline needs no account and no network: files go to outputs/wandb", choices("offline", "online", "disabled")
    )


@tracker("wandb", WandbOptions)
class WandbTracker(Tracker):
    """Runs appear with their first rows, grouped by experiment, with the configuration and the columns of steps.parquet."""

    streams = True

    def __init__(self, config: Config):
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "tracker=wandb: wandb is not installed; pip install wandb, or use tracker=none"
            ) from error
        self.wandb, self.options, self.outputs = wandb, config.tracker, config.outputs
        self.open: dict[str, Any] = {}
        self.next_step: dict[str, int] = {}  # of the row that has not been logged
        self.count = 0

    def log(self, config: Config, rows: pd.DataFrame) -> None:
        name = run_id(config)
        if name not in self.open:
            self.open[name] = self._start(config, name)
            self.count += 1
        for row in rows[rows["step"] >= self.next_step.get(name, 0)].to_dict("records"):
            step = row.pop("step")
            self.open[name].log({column: value for column, value in row.items() if not math.isnan(value)}, step=step)
            self.next_step[name] = step + 1

    def finish(self, config: Config, outcome: Outcome) -> None:
        name = run_id(config)
        if outcome.status in DONE:
            self.log(config, outcome.steps)
            self.open[name].summary.update({"status": outcome.status, **outcome.summary})
        if name in self.open:
            self.next_step.pop(name, None)
            self.open.pop(name).finish(exit_code=0 if outcome.status in DONE else 1)

    def close(self) -> str | None:
        for run in self.open.values():  # of a sweep that was interrupted
            run.finish(exit_code=1)
        self.open.clear()
        if not self.count or self.options.mode != "offline":
            return None
        folder = Path(self.outputs) / "wandb"
        return (
            f"W&B: {self.count} runs in {folder}; send them with: wandb sync {shlex.quote(str(folder))}/offline-run-*"
        )

    def _start(self, config: Config, name: str) -> Any:
        words = describe(config)
        return self.wandb.init(
            project=self.options.project,
            entity=self.options.entity,
            mode=self.options.mode,
            group=config.experiment,
            id=name,
            name=" ".join(words),
            tags=[config.task.name, config.adapter.name, *words],
            config=as_dict(config),
            dir=self.outputs,
            reinit="create_new",
            resume="allow" if self.options.mode == "online" else None,  # a stack that goes on from its checkpoint
            settings=self.wandb.Settings(silent=True, console="off", disable_git=True),
        )


def describe(config: Config) -> list[str]:
    """What a person tells runs apart by: init (and adapter, if it is not LoRA), learning rate, width, seed."""
    adapter = [] if config.adapter.name == "lora" else [config.adapter.name]
    return [
        *adapter,
        config.init.name,
        f"lr={config.optimizer.lr:.3g}",
        f"n={config.task.width}",
        f"seed={config.seed}",
    ]


def tracked(outputs: str) -> set[str]:
    """Ids of the runs that have W&B files under the root folder."""
    return {path.name.rpartition("-")[2] for path in (Path(outputs) / "wandb").glob("*run-*-*") if path.is_dir()}

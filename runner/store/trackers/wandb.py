"""Weights & Biases: one W&B run a run, several alive in one process. The library is imported only when it is chosen."""

import glob
import math
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from runner.config import Config, ConfigError
from runner.config.identity import as_dict, run_id
from runner.config.options import Allowed, choices, option
from runner.config.schema import TrackerOptions
from runner.store.outcome import DONE as WITH_RESULT
from runner.store.outcome import Outcome
from runner.store.trackers.base import Tracker, tracker

DONE = "reported-whole"  # name of a file


PROJECT = Allowed(
    "a name of up to 128 characters, without / \\ # ? % : and spaces around it",
    lambda x: re.fullmatch(r"[^/\\#?%:]{1,128}", x) is not None and x == x.strip(),
)
ENTITY = Allowed("a name of letters, digits, '-' and '_'", lambda x: re.fullmatch(r"[\w-]+", x, re.ASCII) is not None)


@dataclass
class WandbOptions(TrackerOptions):
    project: str = option("the W&B project", PROJECT)
    entity: str | None = option("null: your default entity", ENTITY)
    mode: str = option(
        "offline needs no account and no network: files go to outputs/wandb", choices("offline", "online", "disabled")
    )


@tracker("wandb", WandbOptions)
class WandbTracker(Tracker):
    """Runs appear with their first rows, grouped by experiment, with the configuration and the columns of steps.parquet.

    A run that is reported whole leaves a file DONE in its W&B folder; what an earlier attempt left without it is removed when
    the run starts again, so that one run has one set of offline files.
    """

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
        self.refused: set[str] = (
            set()
        )  # which W&B did not take while they trained; one more attempt is made at their end
        self.count = 0

    def log(self, config: Config, rows: pd.DataFrame) -> None:
        if (name := wandb_id(config)) not in self.refused:
            self._log(config, name, rows)

    def finish(self, config: Config, outcome: Outcome) -> None:
        name = wandb_id(config)
        self.refused.discard(name)
        if outcome.status in WITH_RESULT:
            self._log(config, name, outcome.steps)
            self.open[name].summary.update({"status": outcome.status, **outcome.summary})
        if name in self.open:
            run = self.open.pop(name)
            folder = Path(run.dir).parent
            run.finish(exit_code=0 if outcome.status in WITH_RESULT else 1)
            if outcome.status in WITH_RESULT and folder.is_dir():
                (folder / DONE).touch()

    def close(self) -> str | None:
        while self.open:  # of a sweep that was interrupted
            self.open.popitem()[1].finish(exit_code=1)
        if not self.count or self.options.mode != "offline":
            return None
        folder = Path(self.outputs) / "wandb"
        return (
            f"W&B: {self.count} runs in {folder}; send them with: wandb sync {shlex.quote(str(folder))}/offline-run-*"
        )

    def _log(self, config: Config, name: str, rows: pd.DataFrame) -> None:
        if name not in self.open:
            self.refused.add(name)
            self.open[name] = self._start(config, name)
            self.refused.discard(name)
            self.next_step[name] = 0
            self.count += 1
        for row in rows[rows["step"] >= self.next_step[name]].to_dict("records"):
            step = row.pop("step")
            self.open[name].log({column: value for column, value in row.items() if not math.isnan(value)}, step=step)
            self.next_step[name] = step + 1

    def _start(self, config: Config, name: str) -> Any:
        for folder in folders(self.outputs, name):
            if not (folder / DONE).exists():
                shutil.rmtree(folder, ignore_errors=True)
        words = describe(config)
        return self.wandb.init(
            project=self.options.project,
            entity=self.options.entity,
            mode=self.options.mode,
            group=config.experiment,
            id=name,
            name=" ".join(words),
            tags=list(dict.fromkeys([config.task.name, config.adapter.name, *words])),
            config=as_dict(config),
            dir=self.outputs,
            reinit="create_new",
            resume="allow" if self.options.mode == "online" else None,  # a stack that goes on from its checkpoint
            settings=self.wandb.Settings(silent=True, console="off", disable_git=True),
        )


def describe(config: Config) -> list[str]:
    """What a person tells runs apart by: adapter (if it is not LoRA), init, learning rate, width, rank and alpha (where it has
    them), seed."""
    own, adapter = config.adapter, [config.adapter.name] * (config.adapter.name != "lora")
    rank = [f"r={own.rank}"] if own.rank else []
    alpha = [f"alpha={own.alpha:.3g}"] if hasattr(own, "alpha") else []
    rates = [f"lr={config.optimizer.lr:.3g}"]
    return [
        *adapter,
        config.init.name,
        *rates,
        f"n={config.task.width}",
        *rank,
        *alpha,
        f"seed={config.seed}",
    ]


def wandb_id(config: Config) -> str:
    """Of the run in W&B: experiments share runs, which stand in each one's group."""
    return f"{config.experiment}-{run_id(config)}"


def folders(outputs: str, name: str) -> list[Path]:
    """The W&B folders of the run with this id."""
    return [path for path in (Path(outputs) / "wandb").glob(f"*run-*-{glob.escape(name)}") if path.is_dir()]


def is_tracked(outputs: str, name: str) -> bool:
    """Whether the run with this W&B id was reported whole from here."""
    return any((folder / DONE).exists() for folder in folders(outputs, name))

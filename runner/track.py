"""Trackers: where runs are reported besides the store. W&B is imported only when it is chosen.

A tracker is given each run when its stack is done, so K runs trained together are still K runs in W&B. Runs that the
store already holds are not reported again.
"""

import math
from typing import Any

from runner.schema import Config, ConfigError

MODES = ("offline", "online", "disabled")


class NoTracker:
    """Reports nothing: the store holds everything."""

    def __init__(self, config: Config):
        pass

    def report(self, config: dict[str, Any], run_id: str, steps: Any, summary: dict[str, Any]) -> None:
        """Take one finished or diverged run: its configuration, id, steps (a DataFrame) and summary."""


class WandbTracker(NoTracker):
    """One W&B run per run, grouped by experiment, with the configuration and the columns of steps.parquet."""

    def __init__(self, config: Config):
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "tracker=wandb: wandb is not installed; pip install wandb, or use tracker=none"
            ) from error
        self.wandb, self.options, self.outputs = wandb, config.tracker, config.outputs

    def report(self, config: dict[str, Any], run_id: str, steps: Any, summary: dict[str, Any]) -> None:
        run = self.wandb.init(
            project=self.options.project,
            entity=self.options.entity,
            mode=self.options.mode,
            group=config["experiment"],
            id=run_id,
            name=run_id,
            config=config,
            dir=self.outputs,
            reinit="create_new",
            settings=self.wandb.Settings(silent=True, console="off", disable_git=True),
        )
        try:
            for row in steps.to_dict("records"):
                step = row.pop("step")
                run.log({name: value for name, value in row.items() if not math.isnan(value)}, step=step)
            run.summary.update(summary)
        finally:
            run.finish()


TRACKERS = {"none": NoTracker, "wandb": WandbTracker}

"""What became of the runs of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.config import Config
from runner.config.identity import run_id
from runner.config.registry import TASKS
from runner.store.outcome import FAILED, INTERRUPTED

SKIPPED = "skipped"


@dataclass
class Results:
    """One row per run of the sweep: what it was, how it ended, its loss at the end and the start (held out, where tasks go by
    that)."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False  # between two runs

    def add(self, config: Config, status: str, summary: dict[str, Any] | None = None, error: str | None = None) -> None:
        final = TASKS[config.task.name].objective
        self.rows.append(
            {
                "run_id": run_id(config),
                "experiment": config.experiment,
                "config": config,
                "status": status,
                "error": error,
                "loss": (summary or {}).get(final),
                "start": (summary or {}).get(final.replace("final", "initial")),
            }
        )

    def note(self, sentence: str | None) -> None:
        """Something to say at the end of the sweep."""
        if sentence:
            self.notes.append(sentence)

    def missing(self, configs: Sequence[Config]) -> list[Config]:
        """Those of these runs that have no row."""
        known = {(row["experiment"], row["run_id"]) for row in self.rows}
        return [config for config in configs if (config.experiment, run_id(config)) not in known]

    def count(self, status: str) -> int:
        return sum(row["status"] == status for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0, 1 (failures) or 130 (Ctrl-C)."""
        if self.interrupted or self.count(INTERRUPTED):
            return 130
        return 1 if self.count(FAILED) else 0

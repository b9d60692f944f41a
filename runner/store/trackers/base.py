"""What a tracker is told of the runs of a sweep, and how one is declared."""

from collections.abc import Callable
from typing import ClassVar

import pandas as pd

from runner.config import Config
from runner.config.registry import TRACKERS
from runner.config.schema import TrackerOptions
from runner.store.outcome import Outcome


class Tracker:
    """Reports nothing: the store holds everything. Runs that the store holds already are not reported again."""

    streams: ClassVar[bool] = False  # whether it takes rows while runs train

    def __init__(self, config: Config):
        """For a sweep of runs that share this configuration's tracker and outputs. Raises ConfigError."""

    def log(self, config: Config, rows: pd.DataFrame) -> None:
        """Take further rows of a run in training, with the columns of steps.parquet."""

    def finish(self, config: Config, outcome: Outcome) -> None:
        """Take how a run ended; its steps hold the rows that were logged before, too."""

    def close(self) -> str | None:
        """The sweep has ended, and with it what is open; returns a sentence for the person at the terminal."""
        return None


def tracker(name: str, options: type[TrackerOptions] = TrackerOptions) -> Callable[[type[Tracker]], type[Tracker]]:
    """Declare the class as a tracker under this name, with the dataclass of its options."""

    def declare(kind: type[Tracker]) -> type[Tracker]:
        TRACKERS.declare(name, kind, options)
        return kind

    return declare


tracker("none")(Tracker)

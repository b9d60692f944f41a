"""What of a sweep is tried again after it failed, and how often."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from runner.config import Config
from runner.sweeps.executors.base import StackResult
from runner.training.checkpoint import Checkpoint

MOST_LOST = 3  # times that a run is begun whose process or machine is lost each time


class Attempts:
    """At the stacks of one command. A configuration is known by its object, of which a sweep has one."""

    def __init__(self) -> None:
        self.alone: set[int] = set()  # runs that are trained by themselves, for the last time
        self.lost: Counter[int] = Counter()  # how often a run was lost with its machine
        self.resumed: set[Path] = set()  # checkpoints from which a stack that failed was tried again

    def after(self, ended: StackResult, checkpoint: Checkpoint) -> list[list[Config]]:
        """The stacks in which its runs are tried again; none where they have a result, or none to expect.

        What was lost with its machine comes again as it is. What failed comes again from its checkpoint, if it has one; then run
        by run. What fails alone has failed, and so has what a ConfigError forbids.
        """
        if ended.lost:
            self.lost.update(map(id, ended.stack))
            if self.lost[id(ended.stack[0])] < MOST_LOST:
                return [ended.stack]
        if not ended.error or ended.forbidden or self.alone.issuperset(map(id, ended.stack)):
            return []
        if checkpoint.path.exists() and checkpoint.path not in self.resumed:
            self.resumed.add(checkpoint.path)
            return [ended.stack]
        checkpoint.remove()
        self.alone.update(map(id, ended.stack))
        return [[config] for config in ended.stack]

    def after_loss(self, runs: Sequence[Config]) -> list[list[Config]]:
        """The stacks in which runs come again that were lost together: as they are, then each alone, for one of them may be what
        ends its job; after that, none."""
        self.lost.update(map(id, runs))
        times = max((self.lost[id(config)] for config in runs), default=MOST_LOST)
        if times >= MOST_LOST:
            return []
        return [list(runs)] if times < MOST_LOST - 1 else [[config] for config in runs]

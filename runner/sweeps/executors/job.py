"""What a Slurm job does, on its machine: the sweep of its runs. submitit calls it, and before the time limit its `checkpoint`."""

from collections.abc import Sequence
from threading import Thread
from typing import Any

from runner.config import Config
from runner.core.machine import use_threads
from runner.training import checkpoint

SAVING_SECONDS = 60  # before the time limit, by which training has been told to save its state and end


class Job:
    """Trains these runs, those that are not done yet, in one process with so many threads."""

    def __init__(self, configs: Sequence[Config], threads: int):
        self.configs, self.threads = configs, threads
        self.error: BaseException | None = None

    def __call__(self) -> None:
        """Training is in a thread of its own, so that it goes on to its next step while `checkpoint` waits for it."""
        self.thread = Thread(target=self._train, daemon=True)
        self.thread.start()
        self.thread.join()
        if self.error:
            raise self.error

    def checkpoint(self) -> Any:
        """Called by a signal's handler: save what is trained, and come again."""
        from submitit.helpers import DelayedSubmission

        checkpoint.leave()
        self.thread.join(SAVING_SECONDS / 2)
        return DelayedSubmission(Job(self.configs, self.threads))

    def _train(self) -> None:
        from runner.sweeps.execute import execute

        use_threads(self.threads)  # of this thread's
        try:
            execute(self.configs)
        except BaseException as error:
            self.error = error

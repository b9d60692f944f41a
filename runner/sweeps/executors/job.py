"""What a Slurm job does, on its machine: the sweep of its runs. submitit calls it, and before the time limit its `checkpoint`."""

from collections.abc import Sequence
from threading import Thread
from typing import Any

from runner.config import Config, ConfigError
from runner.config.identity import as_dict
from runner.config.schema import RemoteOptions
from runner.core.machine import use_threads
from runner.store.outcome import FAILED, Outcome
from runner.store.runs import Store
from runner.sweeps.executors.base import run_context, use_own_gpu
from runner.training import checkpoint

SAVING_SECONDS = 60  # before the time limit, by which training has been told to save its state and end
MOST_UNSAVED = 3  # times in a row that a job goes on in the queue though it was at nothing that could be saved


class Job:
    """Trains these runs, those that are not done yet, in one process with what these options ask for.

    `unsaved`: how often in a row it came to its time limit without a state that could be saved, as while a base is pretrained.
    """

    def __init__(self, configs: Sequence[Config], options: RemoteOptions, unsaved: int = 0):
        self.configs, self.options, self.unsaved = configs, options, unsaved
        self.error: BaseException | None = None

    def __call__(self) -> None:
        """Training is in a thread of its own, so that it goes on to its next step while `checkpoint` waits for it."""
        checkpoint.stay()
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
        unsaved = self.unsaved + 1 if self.thread.is_alive() else 0
        return DelayedSubmission(Job(self.configs, self.options, unsaved)) if unsaved < MOST_UNSAVED else None

    def _train(self) -> None:
        from runner.sweeps.execute import execute

        try:
            use_own_gpu(self.options.gpus, self.configs[0].device)
            use_threads(self.options.cpus)  # of this thread's
            for configs in _by_task(self.configs):
                try:
                    execute(configs)
                except ConfigError as error:  # of a base or text, of which no other try knows better
                    _fail(configs, error)
                if checkpoint.leaves():
                    break
        except BaseException as error:
            self.error = error


def _by_task(configs: Sequence[Config]) -> list[list[Config]]:
    groups: dict[str, list[Config]] = {}
    for config in configs:
        groups.setdefault(str(as_dict(config.task)), []).append(config)
    return list(groups.values())


def _fail(configs: Sequence[Config], error: ConfigError) -> None:
    """Store what forbids these runs, but for those that have a result."""
    with Store(configs[0].outputs, configs[0].store.claims) as store:
        for config in configs:
            if store.claim(config):
                store.write(config, Outcome(FAILED, error=str(error)), run_context([config]))

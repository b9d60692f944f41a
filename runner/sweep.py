"""Carry out a list of runs: plan, train stack by stack, store, track; whatever happens, keep what is finished."""

import signal
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from runner.checkpoint import Checkpoint
from runner.config import as_dict, run_id
from runner.machine import interruptions_wait, keep_freed_memory, use_threads
from runner.plan import arrange, cost, most_workers, plan
from runner.progress import ProgressBar, say
from runner.report import SKIPPED, Results, print_report
from runner.schema import Config, ConfigError
from runner.store import DONE, FAILED, INTERRUPTED, DamagedRun, Outcome, Store
from runner.tasks import TASKS
from runner.track import TRACKERS
from runner.workers import Ended, InProcess, Processes, circumstances

LOOK_EVERY = 0.2  # seconds, while other processes train what is left
PAYS = 1e10  # `cost` from which workers are worth their start: about ten seconds of training


def execute(configs: Sequence[Config]) -> Results:
    """Train what is not done yet and print what came of it."""
    _check_shared(configs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is an interruption too
    with Store(configs[0].outputs) as store:
        sweep = Sweep(store, TRACKERS[configs[0].tracker.name](configs[0]))
        todo = plan(configs, store)
        for sentence in todo.damaged:
            say(f"damaged run, training it again: {sentence}")
        for config, summary in todo.done:
            sweep.results.add(config, SKIPPED, summary)
        for config in {str(as_dict(stack[0].task)): stack[0] for stack in todo.stacks}.values():
            TASKS[config.task.name].prepare(config)
        sweep.carry_out(todo.stacks)
    print_report(sweep.results, configs[0].outputs)
    return sweep.results


def _check_shared(configs: Sequence[Config]) -> None:
    """One command has one store, one tracker and one set of workers."""
    if not configs:
        raise ConfigError("the sweep has no runs: one of its axes has no values; give it at least one")
    for name in ("outputs", "bases", "tracker", "workers", "stack", "device"):
        if any(getattr(config, name) != getattr(configs[0], name) for config in configs):
            raise ConfigError(f"{name}: must be the same for all runs of a sweep; run one command for each")


class Sweep:
    """The stacks of one command on their way to the store.

    A run is claimed before it is trained. Runs that another process has claimed wait until it gives them up, with or
    without a result. If a stack fails, it is tried once more from its checkpoint, if it has one; then each of its runs, alone.
    What fails alone has failed, and so has what a ConfigError forbids.
    """

    def __init__(self, store: Store, tracker: Any):
        self.store, self.tracker = store, tracker
        self.results = Results()
        self.queue: deque[list[Config]] = deque()
        self.elsewhere: list[Config] = []  # claimed by other processes
        self.training: list[list[Config]] = []
        self.last_try: set[int] = set()  # ids of the configurations
        self.told_to_wait = False
        self.resumed: set[Path] = set()  # checkpoints from which a stack that failed was tried again

    def carry_out(self, planned: list[list[Config]]) -> None:
        """Train and store all of them, or, on Ctrl-C, mark what is left."""
        self.queue.extend(planned)
        everything = [config for stack in planned for config in stack]
        if not everything:
            return
        pool, bar = pool_for(planned), ProgressBar(everything, cost)
        try:
            while self.queue or self.training or self.elsewhere:
                self._submit(pool)
                if not self.training:
                    self._wait_for_others()
                    continue
                ended = pool.ended(bar.step)
                with interruptions_wait():  # what is trained is stored first
                    for each in ended:
                        self.training.remove(each.stack)
                    self._submit(pool)  # what is free works on while we store
                    for each in ended:
                        bar.finish(each.stack, self._keep(each))
        except KeyboardInterrupt:
            for interrupting in (signal.SIGINT, signal.SIGTERM):
                signal.signal(interrupting, signal.SIG_IGN)  # a second one must not leave runs unmarked
            pool.close()
            self._mark_interrupted(everything)
        finally:
            pool.close()
            bar.close()

    def _submit(self, pool: InProcess | Processes) -> None:
        while self.queue and pool.has_room():
            if stack := self._claimed(self.queue.popleft()):
                self.training.append(stack)
                pool.submit(stack)

    def _claimed(self, stack: Iterable[Config]) -> list[Config]:
        """The runs of a stack that are ours to train; those that others have done meanwhile are skipped."""
        ours = []
        for config in stack:
            if not self.store.claim(config):
                self.elsewhere.append(config)
            elif summary := self._summary(config):
                self.store.release(config)
                self.results.add(config, SKIPPED, summary)
            else:
                ours.append(config)
        return ours

    def _wait_for_others(self) -> None:
        """Queue what other processes have given up."""
        if self.elsewhere:
            if not self.told_to_wait:
                say(f"waiting for {len(self.elsewhere)} runs that another process is training")
            self.told_to_wait = True
            time.sleep(LOOK_EVERY)
        waiting, self.elsewhere = self.elsewhere, []
        self.queue.extend(arrange(self._claimed(waiting)))  # claiming twice is no harm

    def _keep(self, ended: Ended) -> list[Config]:
        """Store, report and release the runs of a stack; those that need no second try."""
        failed = Outcome(FAILED, error=ended.error)
        checkpoint = Checkpoint(ended.stack)
        again = []
        if ended.error and not ended.forbidden and not self.last_try.issuperset(map(id, ended.stack)):
            again = ended.stack
            if checkpoint.path.exists() and checkpoint.path not in self.resumed:
                self.resumed.add(checkpoint.path)
                self.queue.append(again)
            else:
                checkpoint.remove()
                self.last_try.update(map(id, again))
                self.queue.extend([config] for config in again)
        not_stored: ConfigError | None = None
        for config, outcome in zip(ended.stack, ended.outcomes or [failed] * len(ended.stack), strict=True):
            if config in again:
                continue
            try:
                self.store.write(config, outcome, ended.context)
            except ConfigError as error:  # what keeps one run from being stored may spare its neighbours
                not_stored = error
                continue
            self.results.add(config, outcome.status, outcome.summary, outcome.error)
            if outcome.status in DONE:
                self._track(config, outcome)
            self.store.release(config)
        if not_stored:
            raise not_stored
        if not ended.error:
            checkpoint.remove()
        return [config for config in ended.stack if config not in again]

    def _track(self, config: Config, outcome: Outcome) -> None:
        summary = {"status": outcome.status, **outcome.summary}
        try:
            self.tracker.report(as_dict(config), run_id(config), outcome.steps, summary)
        except Exception as error:  # the store has the run; a tracker's trouble must not end the sweep
            say(f"tracker={config.tracker.name}: run {run_id(config)} was stored but not reported ({error})")

    def _summary(self, config: Config) -> dict[str, Any] | None:
        try:
            return self.store.summary(config)
        except DamagedRun:
            return None

    def _mark_interrupted(self, configs: list[Config]) -> None:
        """Mark every run that has no row in the results, unless it is stored already or another process has it."""
        told = self.results.told()
        for config in (config for config in configs if (config.experiment, run_id(config)) not in told):
            if not self.store.claim(config):
                self.results.add(config, INTERRUPTED)
            elif summary := self._summary(config):
                self.results.add(config, summary["status"], summary)
            else:
                outcome = Outcome(INTERRUPTED, error="interrupted before it was finished")
                self.store.write(config, outcome, circumstances([config]))
                self.results.add(config, INTERRUPTED)


def pool_for(planned: list[list[Config]]) -> InProcess | Processes:
    """`workers` processes with the threads divided among them; `auto` is one a core where that pays.

    One thread a stack measures best on few cores: nothing waits for the other half of a step. A process takes seconds to
    start, which a short sweep does not.
    """
    config, threads = planned[0][0], torch.get_num_threads()
    count = most_workers(config)
    if config.workers == "auto":
        long = sum(cost(config) for stack in planned for config in stack) > PAYS
        count = min(count, len(planned)) if long else 1
    if count == 1:
        use_threads(threads)
        keep_freed_memory()
        return InProcess()
    return Processes(count, max(1, threads // count))

"""The stacks of a sweep on their way to the store: claimed, trained, stored, reported."""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from runner.config import Config, ConfigError
from runner.config.identity import as_dict
from runner.config.registry import EXECUTORS, TASKS
from runner.core.machine import interruptions_ignored, interruptions_wait
from runner.core.messages import listening, say
from runner.store import packs
from runner.store.claims import CANNOT
from runner.store.outcome import DONE, FAILED, INTERRUPTED, DamagedRun, Outcome
from runner.store.runs import Store
from runner.store.trackers import Tracker
from runner.sweeps.attempts import Attempts
from runner.sweeps.executors.base import StackResult, run_context
from runner.sweeps.plan import Plan, arrange, cost, done, unreadable
from runner.sweeps.progress import Progress
from runner.sweeps.results import SKIPPED, Results
from runner.training.checkpoint import Checkpoint, leaves
from runner.training.stack import stack_key


class Sweep:
    """The stacks of one command on their way to the store, planned once or, where it searches, round by round.

    A run is claimed before it is trained, here or, if the executor stores what it trains, there. Runs that another process has
    claimed wait until it gives them up, with or without a result. What fails is tried again, see `Attempts`.
    """

    def __init__(self, store: Store, tracker: Tracker, results: Results):
        self.store, self.tracker, self.results = store, tracker, results
        self.queue: deque[list[Config]] = deque()
        self.elsewhere: list[Config] = []  # claimed by other processes
        self.training: list[list[Config]] = []
        self.ahead: Counter[str] = Counter()  # steps of all runs that are to come, by what they share
        self.attempts = Attempts()
        self.said_waiting = False
        self.untracked = ""  # the first error of the tracker

    def run(self, planned: Plan) -> None:
        """Train and store what is planned, or, on Ctrl-C, mark what is left."""
        for sentence in planned.damaged:
            say(f"damaged run, training it again: {sentence}")
        for config, summary in planned.done:
            self.results.add(config, SKIPPED, summary)
        todo = [config for stack in planned.stacks for config in stack]
        if todo:
            with Progress(planned.stacks, cost) as progress, listening(progress.waits):
                self._train(planned.stacks, todo, progress)

    def close(self) -> None:
        """Once all is trained that will be."""
        with interruptions_ignored():  # the report of what was trained is still to come
            self._check_stored()
            self._track(lambda: self.results.note(self.tracker.close()))
            if self.untracked:
                say(f"not everything was reported ({self.untracked}); `python -m runner.push EXPERIMENT` does it later")

    def _train(self, stacks: list[list[Config]], todo: list[Config], progress: Progress) -> None:
        self.queue.extend(stacks)
        self.ahead = Counter()
        for stack in stacks:
            self.ahead[stack_key(stack[0])] += sum(config.steps for config in stack)
        self.executor = EXECUTORS[stacks[0][0].executor.name](stacks, self.tracker.streams)
        try:
            if not self.executor.stores:  # else that is done where they train
                for config in {str(as_dict(stack[0].task)): stack[0] for stack in stacks}.values():
                    TASKS[config.task.name].prepare(config)
            while self.queue or self.training or self.elsewhere:
                if self.store.claims.lost:
                    raise KeyboardInterrupt
                self._submit()
                if not self.training:
                    self._wait_for_others()
                    continue
                ended = self.executor.ended(progress, self._stream)
                with interruptions_wait():  # what is trained is stored first
                    for each in ended:
                        self.training.remove(each.stack)
                    self._submit()  # what is free works on while we store
                    for each in ended:
                        progress.finish(each.stack, self._store_results(each))
        except KeyboardInterrupt:
            with interruptions_ignored():  # a second one must not leave runs unmarked
                self.results.note(self.executor.close())
                self._mark_interrupted(todo)
        finally:
            self.results.note(self.executor.close())

    def _submit(self) -> None:
        while self.queue and self.executor.has_room():
            if stack := self._claimed(self.queue.popleft()):
                self.training.append(stack)
                key = stack_key(stack[0])
                self.executor.submit(stack, self.ahead[key])
                self.ahead[key] -= sum(config.steps for config in stack)

    def _claimed(self, stack: Iterable[Config]) -> list[Config]:
        """The runs of a stack that are ours to train; those that others have done meanwhile are skipped."""
        ours = []
        for config in stack:
            if not self.store.claim(config):
                # Where runs are stored where they train, that may be by a job of an earlier command, which is waited for.
                (ours if self.executor.stores else self.elsewhere).append(config)
                continue
            try:
                summary = done(config, self.store)
            except DamagedRun:
                summary = None
            except packs.Unreadable as error:
                if error.errno in CANNOT:
                    raise unreadable(config, error) from error
                self.store.release(config)  # a break in the network, it may be
                self.elsewhere.append(config)
                continue
            if summary:
                self.results.add(config, SKIPPED, summary)
            else:
                ours.append(config)
            if self.executor.stores:
                self.store.discard(config)
            if summary or self.executor.stores:
                self.store.release(config)
        return ours

    def _wait_for_others(self) -> None:
        """Queue what other processes have given up."""
        if self.elsewhere:
            if not self.said_waiting:
                say(f"waiting for {len(self.elsewhere)} runs that another process is training")
            self.said_waiting = True
            if leaves():
                raise KeyboardInterrupt
            time.sleep(self.store.claims.wait)
        waiting, self.elsewhere = self.elsewhere, []
        self.queue.extend(arrange(self._claimed(waiting)))  # claiming twice is no harm

    def _store_results(self, ended: StackResult) -> list[Config]:
        """Store, report and release the runs of a stack; those that need no second try."""
        if self.executor.stores:
            return self._collect(ended)
        checkpoint = Checkpoint(ended.stack)
        if again := self.attempts.after(ended, checkpoint):
            self.queue.extend(again)
            return []
        failed = Outcome(FAILED, error=ended.error)
        not_stored: ConfigError | None = None
        stored = []
        for config, outcome in zip(ended.stack, ended.outcomes or [failed] * len(ended.stack), strict=True):
            try:
                if not self.store.claim(
                    config
                ):  # no longer, after a break in the network: whoever has it stores the same
                    self.elsewhere.append(config)
                    continue
                self.store.write(config, outcome, ended.context)
            except ConfigError as error:  # what keeps one run from being stored may spare its neighbours
                not_stored = error
                continue
            self._report(config, outcome)
            self.store.release(config)
            stored.append(config)
        if not_stored:
            raise not_stored
        if not ended.error and len(stored) == len(ended.stack):
            checkpoint.remove()
        return stored

    def _collect(self, ended: StackResult) -> list[Config]:
        """Report the runs of a stack that were stored where they were trained; those that need no second try. The others were
        lost with their machine."""
        for folder in {self.store.path(config).parent for config in ended.stack}:
            if folder.is_dir():
                os.listdir(folder)  # else a file system may say for a while that what is new is not there
        outcomes = [(config, self._outcome(config)) for config in ended.stack]
        again = self.attempts.after_loss([config for config, outcome in outcomes if outcome is None])
        self.queue.extend(again)
        left = {id(config) for stack in again for config in stack}
        done = [(config, outcome) for config, outcome in outcomes if id(config) not in left]
        for config, outcome in done:
            self._report(config, outcome or Outcome(FAILED, error=ended.error))
        return [config for config, _ in done]

    def _outcome(self, config: Config) -> Outcome | None:
        """How a run has ended that was trained elsewhere; None where it has not, or lacks what is measured now."""
        outcome = self.store.outcome(config)
        return None if outcome and outcome.status in DONE and self._summary(config) is None else outcome

    def _report(self, config: Config, outcome: Outcome) -> None:
        self.results.add(config, outcome.status, outcome.summary, outcome.error)
        self._track(lambda: self.tracker.finish(config, outcome))

    def _stream(self, stack: list[Config], tables: list[Any]) -> None:
        """Rows of the runs of a stack in training, for the tracker."""
        for config, rows in zip(stack, tables, strict=True):
            self._track(lambda config=config, rows=rows: self.tracker.log(config, rows))

    def _track(self, report: Callable[[], None]) -> None:
        """Report something. The store has the runs: a tracker's trouble must not end the sweep."""
        try:
            report()
        except Exception as error:
            self.untracked = self.untracked or str(error) or type(error).__name__

    def _check_stored(self) -> None:
        """What was there and is no longer, because somebody removed the folder meanwhile, is not reported as done."""
        for row in [] if self.store.claims.lost else self.results.rows:
            if row["status"] in (*DONE, SKIPPED) and not self.store.has_files(row["config"]):
                folder = self.store.path(row["config"]).parent
                error = f"{folder}: runs were removed while the sweep went on; the same command trains them again"
                row |= {"status": FAILED, "error": error, "loss": None}

    def _summary(self, config: Config) -> dict[str, Any] | None:
        try:
            return done(config, self.store)
        except (DamagedRun, packs.Unreadable):
            return None

    def _mark_interrupted(self, configs: list[Config]) -> None:
        """Mark every run that has no row in the results, unless it is stored already or another process has it."""
        for config in self.results.missing(configs):
            if not self.executor.stores and not self.store.claim(config):
                self.results.add(config, INTERRUPTED)
            elif summary := self._summary(config):
                self.results.add(config, summary["status"], summary)
            elif self.executor.stores:
                self.results.add(config, INTERRUPTED)
            else:
                outcome = Outcome(INTERRUPTED, error="interrupted before it was finished")
                self.store.write(config, outcome, run_context([config]))
                self.results.add(config, INTERRUPTED)

"""Carry out a list of runs: plan, train stack by stack, store, track; whatever happens, keep what is finished."""

import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import torch
from tqdm import tqdm

from runner.checks import resolve_device, resolve_engine
from runner.config import as_dict, run_id
from runner.machine import keep_freed_memory
from runner.plan import cost, plan
from runner.report import SKIPPED, Results, print_report
from runner.schema import Config, ConfigError
from runner.store import DONE, FAILED, INTERRUPTED, DamagedRun, Outcome, Store
from runner.track import TRACKERS
from runner.train import train


def execute(configs: Sequence[Config]) -> int:
    """Train what is not done yet and print what came of it. Returns the exit code: 0, 1 (failures) or 130 (Ctrl-C)."""
    _check_shared(configs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is an interruption too
    store = Store(configs[0].outputs)
    tracker = TRACKERS[configs[0].tracker.name](configs[0])
    todo = plan(configs, store)
    keep_freed_memory()
    for sentence in todo.damaged:
        _say(f"damaged run, training it again: {sentence}")
    results = Results()
    for config, summary in todo.done:
        results.add(config, SKIPPED, summary)
    bar = ProgressBar([config for stack in todo.stacks for config in stack])
    try:
        for stack in todo.stacks:
            context, outcomes = _train(stack, bar)
            with _interruptions_wait():
                for config, outcome in zip(stack, outcomes, strict=True):
                    path = store.write(config, outcome, context)
                    results.add(config, outcome.status, outcome.summary, outcome.error)
                    if outcome.status in DONE:
                        _track(tracker, config, path.name, outcome)
            bar.finish(stack)
    except KeyboardInterrupt:
        for interrupting in (signal.SIGINT, signal.SIGTERM):
            signal.signal(interrupting, signal.SIG_IGN)  # a second one must not leave runs unmarked
        _mark_interrupted(todo.stacks, store, results)
    finally:
        bar.close()
    print_report(results, configs[0].outputs)
    if results.count(INTERRUPTED):
        return 130
    return 1 if results.count(FAILED) else 0


@contextmanager
def _interruptions_wait() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: what is trained is stored first."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_shared(configs: Sequence[Config]) -> None:
    """One command has one store and one tracker."""
    if not configs:
        raise ConfigError("the sweep has no runs: one of its axes has no values; give it at least one")
    for name in ("outputs", "tracker"):
        if any(getattr(config, name) != getattr(configs[0], name) for config in configs):
            raise ConfigError(f"{name}: must be the same for all runs of a sweep; run one command for each")


def _train(stack: list[Config], bar: "ProgressBar") -> tuple[dict[str, Any], list[Outcome]]:
    """What the stack's runs came to, and the circumstances. One stack's failure must not cost the others."""
    context, started = _context(stack), time.perf_counter()
    try:
        outcomes = train(stack, bar.step(stack))
    except Exception as error:  # out of memory, or a bug in a task
        outcomes = [Outcome(FAILED, error=f"{type(error).__name__}: {error}")] * len(stack)
        context["traceback"] = traceback.format_exc()
    return context | {"seconds": round((time.perf_counter() - started) / len(stack), 4)}, outcomes


def _mark_interrupted(stacks: list[list[Config]], store: Store, results: Results) -> None:
    """Mark every run that has no row in the results, unless it was stored in the moment of the interruption."""
    told = results.told()
    for config in (config for stack in stacks for config in stack if (config.experiment, run_id(config)) not in told):
        try:
            summary = store.summary(config)
        except DamagedRun:
            summary = None
        if summary:
            results.add(config, summary["status"], summary)
        else:
            store.write(config, Outcome(INTERRUPTED, error="interrupted before it was finished"), _context([config]))
            results.add(config, INTERRUPTED)


def _context(stack: list[Config]) -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(resolve_device(stack[0].device)),
        "engine": resolve_engine(stack[0]),
        "threads": torch.get_num_threads(),
        "stack_size": len(stack),
    }


def _track(tracker: Any, config: Config, run_id: str, outcome: Outcome) -> None:
    summary = {"status": outcome.status, **outcome.summary}
    try:
        tracker.report(as_dict(config), run_id, outcome.steps, summary)
    except Exception as error:  # the store has the run; a tracker's trouble must not end the sweep
        _say(f"tracker={config.tracker.name}: run {run_id} was stored but not reported ({error})")


def _say(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


class ProgressBar:
    """Runs done, current loss and time left on stderr; silent when stderr is not a terminal."""

    FORMAT = "{percentage:3.0f}% |{bar:24}| {desc} [{elapsed} elapsed, {remaining} left]"

    def __init__(self, configs: list[Config]):
        self.runs, self.done, self.work = len(configs), 0, 0.0
        self.bar = tqdm(
            total=sum(map(cost, configs)), bar_format=self.FORMAT, disable=None if configs else True, leave=False
        )

    def step(self, stack: list[Config]) -> Any:
        per_step = sum(map(cost, stack)) / stack[0].steps

        def advance(step: int, losses: torch.Tensor) -> None:
            if not self.bar.disable and step % 10 == 0:  # reading the loss waits for the device
                loss = losses[losses.isfinite()].median().item()
                self.bar.set_description_str(f"{self.done}/{self.runs} runs, loss {loss:.3g}", refresh=False)
            self.bar.update(per_step)

        return advance

    def finish(self, stack: list[Config]) -> None:
        """Count a stack as done, including the work that failed or diverged runs did not need."""
        self.done += len(stack)
        self.work += sum(map(cost, stack))
        self.bar.update(self.work - self.bar.n)

    def close(self) -> None:
        self.bar.close()

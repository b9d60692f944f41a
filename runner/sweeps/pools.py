"""Where stacks are trained: in this process, or side by side in processes of their own with the threads divided among them.

Both kinds of pool take a stack (`submit`), train it, and say how it ended (`ended`). The store is the caller's.
"""

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import pandas as pd
import torch

from runner.config import Config, ConfigError
from runner.config.resources import resolve_device
from runner.core.machine import interruptions_ignored, keep_freed_memory, use_threads
from runner.core.messages import listening
from runner.store.runs import Outcome
from runner.sweeps.plan import cost, max_workers
from runner.training.log import Log
from runner.training.stability import Stability
from runner.training.train import train

MIN_PARALLEL_COST = 1e10  # `cost` from which workers are worth their start: about ten seconds of training
SHUTDOWN_SECONDS = 5.0  # that an idle worker has to end
REPORT_EVERY = 0.2  # seconds between reports of a stack's progress
STREAM_EVERY = 2.0  # seconds between rows for a tracker


class Listener(Protocol):
    """Is told how training goes."""

    def step(self, stack: Sequence[Config], steps: float, loss: float) -> None: ...

    def waits(self, activity: str) -> None: ...


Stream = Callable[[list[Config], list[pd.DataFrame]], None]  # new rows of each run of a stack


@dataclass
class StackResult:
    """How a stack ended: an outcome for each of its runs, or the error that stopped them all."""

    stack: list[Config]
    outcomes: list[Outcome] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    forbidden: bool = False  # by a ConfigError, which no other try would change


def train_stack(stack: list[Config], ahead: int, report: Callable[[Any], None], streams: bool) -> StackResult:
    """Train a stack; what is reported is (step, loss), or the list of new rows of each run where it streams. `ahead`: steps of
    these and all further runs like them."""
    result, started = StackResult(stack, context=run_context(stack)), time.perf_counter()
    try:
        result.outcomes = train(stack, _reporter(report, streams), ahead)
    except ConfigError as error:
        result.error, result.forbidden = str(error), True
    except Exception as error:  # out of memory, or a bug in a task: it must not cost the other stacks
        result.error = f"{type(error).__name__}: {error}"
        result.context["traceback"] = traceback.format_exc()
    result.context["seconds"] = round((time.perf_counter() - started) / len(stack), 4)
    return result


def run_context(stack: Sequence[Config]) -> dict[str, Any]:
    """When and on what a stack is trained, for meta.json."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(resolve_device(stack[0].device)),
        "threads": torch.get_num_threads(),
        "stack_size": len(stack),
    }


def _reporter(report: Callable[[Any], None], streams: bool) -> Callable[..., None]:
    """Reports of `train`'s progress now and then: reading a loss waits for the device."""
    reported = streamed = time.monotonic()
    first = 0  # step of the next row to stream

    def progress(step: int, losses: torch.Tensor, log: Log, stability: Stability) -> None:
        nonlocal reported, streamed, first
        now = time.monotonic()
        if now - reported > REPORT_EVERY:
            reported = now
            report((step, losses[losses.isfinite()].median().item()))
        if streams and now - streamed > STREAM_EVERY:
            streamed = now
            report(log.between(first, stability.ends.clamp(max=step).tolist()))
            first = step

    return progress


def _dispatch(news: Any, stack: list[Config], listener: Listener, stream: Stream) -> None:
    """Give a report to whom it is for."""
    if isinstance(news, str):
        listener.waits(news)
    elif isinstance(news, list):
        stream(stack, news)
    else:
        listener.step(stack, *news)


def pool_for(stacks: list[list[Config]], streams: bool) -> "InProcess | Processes":
    """`workers` processes with the threads divided among them; `auto` is one a core where that pays.

    One thread a stack measures best on few cores: nothing waits for the other half of a step. A process takes seconds to
    start, which a short sweep does not.
    """
    config, threads = stacks[0][0], torch.get_num_threads()
    count = max_workers(config)
    if config.workers == "auto":
        long = sum(cost(config) for stack in stacks for config in stack) > MIN_PARALLEL_COST
        count = min(count, len(stacks)) if long else 1
    if count == 1:
        use_threads(threads)
        keep_freed_memory()
        return InProcess(streams)
    return Processes(count, max(1, threads // count), streams)


class InProcess:
    """One stack at a time, here, with all threads."""

    def __init__(self, streams: bool):
        self.streams = streams
        self.jobs: list[tuple[list[Config], int]] = []

    def has_room(self) -> bool:
        return not self.jobs

    def submit(self, stack: list[Config], ahead: int) -> None:
        self.jobs.append((stack, ahead))

    def ended(self, listener: Listener, stream: Stream) -> list[StackResult]:
        """Train what was submitted."""
        jobs, self.jobs = self.jobs, []
        return [
            train_stack(stack, ahead, lambda news, stack=stack: _dispatch(news, stack, listener, stream), self.streams)
            for stack, ahead in jobs
        ]

    def close(self) -> None:
        pass


@dataclass
class Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    stack: list[Config] | None = None


class Processes:
    """Up to `count` stacks at a time. A process that dies costs its stack; another takes its place."""

    def __init__(self, count: int, threads: int, streams: bool):
        self.count, self.threads, self.streams = count, threads, streams
        self.workers: list[Worker] = []

    def has_room(self) -> bool:
        return sum(worker.stack is not None for worker in self.workers) < self.count

    def submit(self, stack: list[Config], ahead: int) -> None:
        worker = next((worker for worker in self.workers if worker.stack is None), None) or self._start()
        worker.stack = stack
        try:
            worker.connection.send((stack, ahead))
        except OSError:
            pass  # it died in this moment, and `ended` will notice

    def ended(self, listener: Listener, stream: Stream) -> list[StackResult]:
        """Wait for news; the stacks that have ended since the last call."""
        ended = []
        busy = {worker.connection: worker for worker in self.workers if worker.stack is not None}
        for connection in wait(list(busy), timeout=1.0):
            worker = busy[connection]
            try:
                news = connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                self.workers.remove(worker)
                news = StackResult(worker.stack, error=_reason(worker.process.exitcode))
            if isinstance(news, StackResult):
                news.stack, worker.stack = worker.stack, None  # the same objects as were submitted
                ended.append(news)
            else:
                _dispatch(news, worker.stack, listener, stream)
        return ended

    def close(self) -> None:
        """Idle workers end when their pipe does, and clean up after themselves; busy ones are killed."""
        for worker in self.workers:
            worker.connection.close()
            if worker.stack is not None:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join(SHUTDOWN_SECONDS)
            worker.process.kill()
            worker.process.join()
        self.workers.clear()

    def _start(self) -> Worker:
        parent_end, child_end = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_work, args=(child_end, self.threads, self.streams), daemon=True)
        with (
            interruptions_ignored(),
            _without_main_module(),
        ):  # signals: by the child too, the parent decides when it stops
            process.start()
        child_end.close()  # so that the pipe ends when the process does
        self.workers.append(Worker(process, parent_end))
        return self.workers[-1]


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep a process that is started from running the main script once more: a worker needs nothing of it, and a script that
    sweeps would start another sweep."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in hidden:
        delattr(main, name)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


def _reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        hint = "; the system does this when memory runs out" if -exitcode == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-exitcode).name}{hint}"
    return f"its process ended with exit code {exitcode}"


def _work(connection: Connection, threads: int, streams: bool) -> None:
    """A worker process: train the stacks that come, until the pipe or the process at its other end is gone."""
    for interrupting in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # the parent may have been started in a thread that could not say so
        signal.signal(interrupting, signal.SIG_IGN)
    use_threads(threads)
    keep_freed_memory()
    try:
        with listening(connection.send):
            while True:
                connection.send(train_stack(*connection.recv(), connection.send, streams))
    except (EOFError, OSError):
        sys.exit()

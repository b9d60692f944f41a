"""Where stacks are trained: in this process, or side by side in processes of their own with the threads divided among them.

Both kinds of pool take a stack (`submit`), train it, and say how it ended (`ended`). The store is the caller's.
"""

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from runner.checks import resolve_device, resolve_engine
from runner.machine import interruptions_ignored, keep_freed_memory, use_threads
from runner.schema import Config, ConfigError
from runner.store import Outcome
from runner.train import train

FAREWELL = 5.0  # seconds that an idle worker has to end
TELL_EVERY = 0.2  # seconds between a worker's messages
Progress = Callable[[Sequence[Config], float, float], None]  # stack, steps done, loss


@dataclass
class Ended:
    """How a stack ended: an outcome for each of its runs, or the error that stopped them all."""

    stack: list[Config]
    outcomes: list[Outcome] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    forbidden: bool = False  # by a ConfigError, which no other try would change


def carry_out(stack: list[Config], tell: Callable[[float, float], None]) -> Ended:
    """Train a stack."""
    ended, started = Ended(stack, context=circumstances(stack)), time.perf_counter()
    try:
        ended.outcomes = train(stack, _now_and_then(tell))
    except ConfigError as error:
        ended.error, ended.forbidden = str(error), True
    except Exception as error:  # out of memory, or a bug in a task: it must not cost the other stacks
        ended.error = f"{type(error).__name__}: {error}"
        ended.context["traceback"] = traceback.format_exc()
    ended.context["seconds"] = round((time.perf_counter() - started) / len(stack), 4)
    return ended


def circumstances(stack: Sequence[Config]) -> dict[str, Any]:
    """When and on what a stack is trained, for meta.json."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(resolve_device(stack[0].device)),
        "engine": resolve_engine(stack[0]),
        "threads": torch.get_num_threads(),
        "stack_size": len(stack),
    }


def _now_and_then(tell: Callable[[float, float], None]) -> Callable[[int, torch.Tensor], None]:
    """Progress of `train` as (step, median loss), at most every TELL_EVERY seconds: reading a loss waits for the device."""
    last = time.monotonic()

    def progress(step: int, losses: torch.Tensor) -> None:
        nonlocal last
        if time.monotonic() - last > TELL_EVERY:
            last = time.monotonic()
            tell(step, losses[losses.isfinite()].median().item())

    return progress


class InProcess:
    """One stack at a time, here, with all threads."""

    def __init__(self):
        self.stacks: list[list[Config]] = []

    def has_room(self) -> bool:
        return not self.stacks

    def submit(self, stack: list[Config]) -> None:
        self.stacks.append(stack)

    def ended(self, progress: Progress) -> list[Ended]:
        """Train what was submitted; `progress` hears of it."""
        return [
            carry_out(stack, lambda step, loss, stack=stack: progress(stack, step, loss))
            for stack in (self.stacks.pop() for _ in range(len(self.stacks)))
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

    def __init__(self, count: int, threads: int):
        self.count, self.threads = count, threads
        self.workers: list[Worker] = []

    def has_room(self) -> bool:
        return sum(worker.stack is not None for worker in self.workers) < self.count

    def submit(self, stack: list[Config]) -> None:
        worker = next((worker for worker in self.workers if worker.stack is None), None) or self._start()
        worker.stack = stack
        try:
            worker.connection.send(stack)
        except OSError:
            pass  # it died in this moment, and `ended` will notice

    def ended(self, progress: Progress) -> list[Ended]:
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
                news = Ended(worker.stack, error=_reason(worker.process.exitcode))
            if isinstance(news, Ended):
                news.stack, worker.stack = worker.stack, None  # the same objects as were submitted
                ended.append(news)
            else:
                progress(worker.stack, *news)
        return ended

    def close(self) -> None:
        """Idle workers end when their pipe does, and clean up after themselves; busy ones are killed."""
        for worker in self.workers:
            worker.connection.close()
            if worker.stack is not None:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join(FAREWELL)
            worker.process.kill()
            worker.process.join()
        self.workers.clear()

    def _start(self) -> Worker:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_work, args=(theirs, self.threads), daemon=True)
        with interruptions_ignored():  # by the child too, for good: the parent decides when it stops
            process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.workers.append(Worker(process, ours))
        return self.workers[-1]


def _reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        hint = "; the system does this when memory runs out" if -exitcode == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-exitcode).name}{hint}"
    return f"its process ended with exit code {exitcode}"


def _work(connection: Connection, threads: int) -> None:
    """A worker process: train the stacks that come, until the pipe or the process at its other end is gone."""
    use_threads(threads)
    keep_freed_memory()
    try:
        while True:
            connection.send(carry_out(connection.recv(), lambda step, loss: connection.send((step, loss))))
    except (EOFError, OSError):
        sys.exit()

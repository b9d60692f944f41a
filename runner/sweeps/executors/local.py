"""On this machine: in the command's own process, or side by side in others with the threads, and the GPUs, divided among them."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import torch

from runner.config import Config
from runner.core.machine import interruptions_ignored, keep_freed_memory, use_threads
from runner.core.messages import listening
from runner.sweeps.executors.base import Executor, Listener, StackResult, Stream, dispatch, executor, train_stack
from runner.sweeps.plan import cost, gpus, max_workers

MIN_PARALLEL_COST = 1e10  # `cost` from which workers are worth their start: about ten seconds of training
SHUTDOWN_SECONDS = 5.0  # that an idle worker has to end


@executor("local")
def local(stacks: Sequence[list[Config]], streams: bool) -> Executor:
    """`workers` processes with the threads divided among them; `auto` is one a core where that pays, or one a GPU.

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
    return Processes(count, max(1, threads // count), streams, gpus(config))


class InProcess(Executor):
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
            train_stack(stack, ahead, lambda news, stack=stack: dispatch(news, stack, listener, stream), self.streams)
            for stack, ahead in jobs
        ]

    def close(self) -> None:
        pass


@dataclass
class Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    gpu: int | None  # that is its own, where there are several
    stack: list[Config] | None = None


class Processes(Executor):
    """Up to `count` stacks at a time. A process that dies costs its stack; another takes its place."""

    def __init__(self, count: int, threads: int, streams: bool, gpus: int):
        self.count, self.threads, self.streams = count, threads, streams
        self.gpus = gpus
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
                dispatch(news, worker.stack, listener, stream)
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
        taken = [worker.gpu for worker in self.workers]
        gpu = min(range(self.gpus), key=taken.count, default=None)
        process = context.Process(target=_work, args=(child_end, self.threads, gpu, self.streams), daemon=True)
        with (
            interruptions_ignored(),
            _without_main_module(),
        ):  # signals: by the child too, the parent decides when it stops
            process.start()
        child_end.close()  # so that the pipe ends when the process does
        self.workers.append(Worker(process, parent_end, gpu))
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


def _work(connection: Connection, threads: int, gpu: int | None, streams: bool) -> None:
    """A worker process: train the stacks that come, until the pipe or the process at its other end is gone."""
    for interrupting in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # the parent may have been started in a thread that could not say so
        signal.signal(interrupting, signal.SIG_IGN)
    use_threads(threads)
    keep_freed_memory()
    if gpu is not None:
        torch.cuda.set_device(gpu)  # which `device=auto` and `device=cuda` then mean
    try:
        with listening(connection.send):
            while True:
                connection.send(train_stack(*connection.recv(), connection.send, streams))
    except (EOFError, OSError):
        sys.exit()

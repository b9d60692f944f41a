"""Ray: a stack is a task of a cluster, or of one started here for the sweep. Claims and the store stay with the command."""

import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from runner.config import Config, ConfigError
from runner.config.identity import with_values
from runner.config.options import Allowed, option
from runner.config.schema import ExecutorOptions, RemoteOptions
from runner.core.machine import handlers_kept, keep_freed_memory, use_threads
from runner.core.messages import listening
from runner.sweeps.executors.base import (
    Executor,
    Listener,
    StackResult,
    Stream,
    dispatch,
    executor,
    train_stack,
    use_own_gpu,
)
from runner.sweeps.memory import GIB, bytes_of_stack

PROCESS = GIB  # bytes of memory that a task takes before it trains, for what it loads
AHEAD = 2  # tasks beyond what there is room for, which start as others end
POLL_SECONDS = 1.0
ADDRESS = Allowed("auto | <host>:<port>", lambda x: x == "auto" or re.fullmatch(r"[^/]+:\d+", x) is not None)


@dataclass
class RayOptions(RemoteOptions):
    address: str | None = option(
        "of the cluster; auto: the one that this machine belongs to; null: one of this machine alone", ADDRESS
    )


@executor("ray", RayOptions)
class Ray(Executor):
    """A task that ends with its worker or machine costs its stack another try, wherever there is room."""

    def __init__(self, stacks: Sequence[list[Config]], streams: bool):
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "executor=ray: ray is not installed; pip install 'ray>=2.50', or use executor=local"
            ) from error
        config = stacks[0][0]
        self.ray, self.options, self.workers, self.streams = ray, config.executor, config.workers, streams
        self.training: dict[Any, list[Config]] = {}  # by the stream of a task's reports
        self.connect()

    def connect(self) -> None:
        """Raises ConfigError where there is no such cluster, or no machine of it could ever train a stack."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
        self.began = not self.ray.is_initialized()
        if self.began:
            address, more = self.options.address, {}
            if address is None:
                address, more = "local", {"include_dashboard": False}
            try:
                _check_answers(address)  # Ray would try for minutes
                with handlers_kept():
                    self.ray.init(address, log_to_driver=False, logging_level="ERROR", **more)
            except (OSError, RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"executor.address={self.options.address}: no cluster answers there ({error})"
                ) from error
        if not self._can_take_a_stack():
            machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            most = {name: max(there.get(name, 0) for there in machines) for name in ("CPU", "GPU", "memory")}
            self.close()
            raise ConfigError(
                f"executor.cpus={self.options.cpus}, gpus={self.options.gpus}, memory={self.options.memory:g}: no machine of the "
                f"cluster has as much; at most {most['CPU']:g} cores, {most['GPU']:g} GPUs and {most['memory'] / GIB:.1f} GiB"
            )

    def has_room(self) -> bool:
        if self.workers != "auto":
            return len(self.training) < self.workers
        there = self.ray.cluster_resources()
        room = there.get("CPU", 0) // self.options.cpus
        if self.options.gpus:
            room = min(room, there.get("GPU", 0) // self.options.gpus)
        return len(self.training) < room + AHEAD

    def submit(self, stack: list[Config], ahead: int) -> None:
        gpus = self.options.gpus
        memory = self.options.memory * GIB if gpus else min(self.options.memory * GIB, PROCESS + bytes_of_stack(stack))
        task = self.ray.remote(_train).options(
            num_cpus=self.options.cpus, num_gpus=gpus, memory=int(memory), max_retries=0, num_returns="streaming"
        )
        here = ExecutorOptions(name="local")
        sent = [with_values(config, {"executor": here}) for config in stack]
        self.training[task.remote(os.getcwd(), self.options, sent, ahead, self.streams)] = stack

    def ended(self, listener: Listener, stream: Stream) -> list[StackResult]:
        streams = list(self.training)
        self.ray.wait(streams, timeout=POLL_SECONDS)
        ready, _ = self.ray.wait(streams, num_returns=len(streams), timeout=0)
        if not ready and not self._can_take_a_stack():
            listener.waits("no machine of the cluster can take a stack now")
        ended = []
        for reports in ready:
            stack = self.training[reports]
            try:
                news = self.ray.get(next(reports))
            except (self.ray.exceptions.RayError, StopIteration) as error:
                news = StackResult(stack, error=_reason(error), lost=self._is_lost(error))
            if isinstance(news, StackResult):
                news.stack = stack  # the same objects as were submitted
                del self.training[reports]
                ended.append(news)
            else:
                dispatch(news, stack, listener, stream)
        return ended

    def close(self) -> None:
        for reports in self.training:
            self.ray.cancel(reports, force=True)
        self.training.clear()
        if self.began:
            self.ray.shutdown()

    def _can_take_a_stack(self) -> bool:
        """Whether a machine of the cluster could, if it did nothing else."""
        wanted = {"CPU": self.options.cpus, "GPU": self.options.gpus, "memory": self.options.memory * GIB}
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return any(all(there.get(name, 0) >= much for name, much in wanted.items()) for there in machines)

    def _is_lost(self, error: Exception) -> bool:
        """Whether a task ended with its worker or machine, and not for what it did."""
        errors = self.ray.exceptions
        return not isinstance(error, errors.RayTaskError | errors.OutOfMemoryError | errors.RuntimeEnvSetupError)


def _check_answers(address: str) -> None:
    """Raises OSError or ValueError where nothing is at an address that names a machine."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _reason(error: Exception) -> str:
    if cause := getattr(error, "cause", None):
        return f"its task failed: {type(cause).__name__}: {cause}"
    first, *_ = str(error).strip().splitlines() or [""]
    return f"its task was lost: {type(error).__name__}{': ' * bool(first)}{first}"


def _train(folder: str, options: RayOptions, stack: list[Config], ahead: int, streams: bool) -> Iterator[Any]:
    """On a machine of the cluster: what `train_stack` reports, and how the stack ended."""
    os.chdir(folder)  # which names of folders start from
    use_own_gpu(options.gpus, stack[0].device)
    keep_freed_memory()
    news: SimpleQueue[Any] = SimpleQueue()

    def work() -> None:
        try:
            use_threads(options.cpus)  # of this thread's
            with listening(news.put):
                news.put(train_stack(stack, ahead, news.put, streams))
        except BaseException as error:
            news.put(StackResult(stack, error=f"{type(error).__name__}: {error}"))

    Thread(target=work, daemon=True).start()
    while not isinstance(each := news.get(), StackResult):
        yield each
    yield each

"""What trains the stacks of a sweep, and how a stack is trained wherever that is."""

import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

import pandas as pd
import torch

from runner.config import Config, ConfigError
from runner.config.registry import EXECUTORS
from runner.config.resources import device_of
from runner.config.schema import ExecutorOptions
from runner.store.outcome import Outcome
from runner.training.log import Log
from runner.training.stability import Stability
from runner.training.train import train

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
    lost: bool = False  # with the process or machine that trained it, which says nothing against the stack


class Executor(Protocol):
    """Where stacks are trained: what is submitted, and how it ended.

    Made for these stacks, of which the first's configuration says how; `streams`: whether rows are reported while they train.
    Raises ConfigError where there is none.
    """

    stores: ClassVar[bool] = False  # whether runs are claimed and stored where they train; else the caller does both

    def __init__(self, stacks: Sequence[list[Config]], streams: bool): ...

    def has_room(self) -> bool:
        """Whether another stack would be begun soon."""

    def submit(self, stack: list[Config], ahead: int) -> None:
        """Take a stack; `ahead`: steps of its runs and all further ones like them."""

    def ended(self, listener: Listener, stream: Stream) -> list[StackResult]:
        """Wait for news; the stacks that have ended since the last call, as the same objects."""

    def close(self) -> str | None:
        """Nothing is wanted any more of what has not ended; returns what is to be said of it."""


def executor(
    name: str, options: type[ExecutorOptions] = ExecutorOptions
) -> Callable[[Callable[..., Executor]], Callable[..., Executor]]:
    """Declare what makes an executor under this name, with the dataclass of its options."""

    def declare(kind: Callable[..., Executor]) -> Callable[..., Executor]:
        EXECUTORS.declare(name, kind, options)
        return kind

    return declare


def use_own_gpu(gpus: int, device: str) -> None:
    """On a machine elsewhere: see no GPU where none was asked for, for others have them. Raises RuntimeError where one was and is
    not there."""
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError(f"executor.gpus={gpus}: torch finds no GPU on {platform.node()}")


def train_stack(stack: list[Config], ahead: int, report: Callable[[Any], None], streams: bool) -> StackResult:
    """Train a stack; what is reported is (step, loss), or the list of new rows of each run where it streams. `ahead`: steps of
    these and all further runs like them."""
    result, started = StackResult(stack), time.perf_counter()
    try:
        result.context = run_context(stack)
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
        "device": str(device_of(stack[0])),
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


def dispatch(news: Any, stack: list[Config], listener: Listener, stream: Stream) -> None:
    """Give a report to whom it is for."""
    if isinstance(news, str):
        listener.waits(news)
    elif isinstance(news, list):
        stream(stack, news)
    else:
        listener.step(stack, *news)

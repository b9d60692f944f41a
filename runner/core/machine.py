"""What this process asks of the machine: threads, memory that it keeps, signals that wait."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numba
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and values of malloc.h


def use_threads(count: int) -> None:
    """Let torch and Numba's kernels use `count` threads each.

    They share one OpenMP, and Numba, when it launches, sizes it for all cores: so Numba comes first.
    """
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch uses one thread: a library may divide a product, and so round it, by their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Within, torch rounds what float32 products multiply as this name of its says, whatever the process had asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def keep_freed_memory(largest: int = 2**30) -> None:
    """Let freed blocks of up to `largest` bytes be used again by this process (glibc; no effect elsewhere).

    A training step frees activations of megabytes and asks for the same again. By default glibc gives such blocks back to
    the kernel each time, and a third of the training time went into page faults.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_THRESHOLD, largest)
    mallopt(M_TRIM_THRESHOLD, largest)


@contextmanager
def interruptions_wait() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: what is trained is stored first. In the main thread; KeyboardInterrupt comes after.

    By handlers: a mask would hold for one thread, and the system hands the signal to another.
    """
    came: list[int] = []
    try:
        with _handlers(lambda signum, frame: came.append(signum)):
            yield
    finally:
        if came:  # also where it went wrong, for what is within may have been interrupted itself
            raise KeyboardInterrupt


def interruptions_ignored() -> AbstractContextManager[None]:
    """Ignore Ctrl-C and SIGTERM for a moment, and for as long as it lives in a process that is started meanwhile."""
    return _handlers(signal.SIG_IGN)


def termination_interrupts() -> AbstractContextManager[None]:
    """Within, a polite kill (SIGTERM) is a KeyboardInterrupt, as Ctrl-C is."""
    return _handlers(signal.default_int_handler)


def interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread, from another one, also where it waits for something."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """What is within may set handlers of its own for Ctrl-C and SIGTERM; afterwards they are what they were."""
    kept = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for which, handler in kept.items():
                signal.signal(which, handler)


@contextmanager
def _handlers(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals come to that one alone
        yield
        return
    before = {which: signal.signal(which, handler) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, old in before.items():
            if old is not None:  # None: it was not set from Python
                signal.signal(which, old)

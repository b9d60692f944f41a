"""What this process asks of the machine: threads, memory that it keeps, signals that wait."""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and values of malloc.h


def use_threads(count: int) -> None:
    """Let torch and Numba's kernels use `count` threads each.

    They share one OpenMP, and Numba, when it launches, sizes it for all cores: so Numba comes first.
    """
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(count)


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
    """Hold back Ctrl-C and SIGTERM: what is trained is stored first."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

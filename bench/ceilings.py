"""What this machine can do: multiply-adds and bytes a second, measured; and how many of each a run's step takes."""

import time
from collections.abc import Callable

import numpy as np
import torch
from numba import prange, uintp

from runner.config import Config
from runner.core.compiled import THREE, TWO, njit

LANES = 128
L = uintp(LANES)
PER_LANE = 4 * 32  # multiply-adds in `_multiply_adds`, per lane and repetition


@njit(parallel=True, fastmath={"contract"})
def _multiply_adds(x, factor, repetitions):
    """Four independent chains a lane, which never leave the registers."""
    for task in prange(len(x)):
        row = x[task]
        for _repetition in range(repetitions):
            for lane in range(LANES):
                i = uintp(lane)
                a, b, c, d = row[i], row[L + i], row[TWO * L + i], row[THREE * L + i]
                for _ in range(32):
                    a = a * factor + factor
                    b = b * factor + factor
                    c = c * factor + factor
                    d = d * factor + factor
                row[i] = a
                row[L + i] = b
                row[TWO * L + i] = c
                row[THREE * L + i] = d


def multiply_adds_per_second(repetitions: int = 2000) -> float:
    """float32, all threads."""
    x = np.ones((8, 4 * LANES), np.float32)
    seconds = best(lambda: _multiply_adds(x, np.float32(0.5), repetitions))
    return len(x) * repetitions * LANES * PER_LANE / seconds


def bytes_per_second(size: int = 2**28) -> float:
    """Read and written by a copy too large for any cache, all threads."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)
    return 2 * size / best(lambda: target.copy_(source))


def best(work: Callable[[], object], rounds: int = 10) -> float:
    """Shortest of several times in seconds, after one to warm up."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def multiply_adds(config: Config) -> float:
    """That one run's step takes: 5r for each pair of a point and a column (A·z, B·(A·z), and three sums for the gradients)."""
    return 5.0 * config.adapter.rank * config.task.train_points * config.task.width


def bytes_moved(config: Config, runs: int) -> float:
    """That the fused engine moves for one run's step, at least: the base's three panels, which K runs share; the slopes, of a
    bit, written and read; and the two factors, which AdamW (30), pack (1), the copies for the metrics (2) and the metrics (6)
    read or write so many times."""
    pairs = config.task.train_points * config.task.width
    factors = 39.0 * 2 * config.adapter.rank * config.task.width
    return 4.0 * (3 * pairs / runs + 2 * pairs / 32 + factors)

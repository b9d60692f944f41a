"""Threads that wait for each other spin or sleep: what either takes on an idle machine, and on one with other work.

libgomp spins for a while unless it is told not to, and `runner` tells it where it is imported before torch. Every command is
timed in a process of its own, with two threads or more that work together; other work is processes that count.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from tempfile import TemporaryDirectory

POLICIES = {
    "spin": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own number where nothing is set; goes before any policy
    "sleep": {"OMP_WAIT_POLICY": "passive"},
}
LOADS = (0, 1, 3)  # other processes a core
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
ROUNDS = 3
LRS = ",".join(f"{k}e-3" for k in range(1, 10))
TOYS = ["workers=1", "task.width=64", "init=gaussian_A,gaussian_B", f"optimizer.lr={LRS}"]
WORKS = {  # command; {outputs}: an empty folder
    "18 toy runs, n = 64": ["-m", "runner", "--multirun", *TOYS, "outputs={outputs}"],
    "language model, n = 64, a stack of 16": ["-m", "bench.language", "autograd", "64", "20", "2"],
}


def measure(rounds: int = ROUNDS) -> list[dict[str, str | float]]:
    """One row per work and load: seconds of the whole command by policy, the best of the rounds."""
    rows = []
    for others, (work, command) in product(LOADS, WORKS.items()):
        times: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        with load(others * CORES):
            for _, policy in product(range(rounds), POLICIES):
                times[policy].append(seconds(command, POLICIES[policy]))
        best = {policy: min(taken) for policy, taken in times.items()}
        shown = {f"seconds, threads {policy}": taken for policy, taken in best.items()}
        rows.append({"work": work, "others a core": str(others), **shown, "spin / sleep": best["spin"] / best["sleep"]})
    return rows


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Wall time of a Python command (its start and imports and all)."""
    unset = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    plain = {name: value for name, value in os.environ.items() if name not in unset}
    with TemporaryDirectory() as outputs:
        filled = [part.format(outputs=outputs) for part in command]
        start = time.perf_counter()
        subprocess.run([sys.executable, *filled], check=True, capture_output=True, env=plain | environment)
        return time.perf_counter() - start


@contextmanager
def load(processes: int) -> Iterator[None]:
    """That many processes that do nothing but count."""
    counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


if __name__ == "__main__":
    for row in measure():
        print(row)

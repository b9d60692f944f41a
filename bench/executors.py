"""`python -m bench.executors`: a sweep of 1,000 tiny runs by way of Slurm, of Ray, and in processes of this machine.

Each is a command of its own, start and all, and they take turns. Slurm is started here, as root on a Debian machine with its
packages; `make test-clusters` installs those and both executors.
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
GRID = [
    "-m",
    "task.width=32",
    "steps=50",
    "seed=range(0,50)",
    "init=gaussian_A,gaussian_B",
    "optimizer.lr=1e-4,2e-4,5e-4,1e-3,2e-3,5e-3,1e-2,2e-2,5e-2,1e-1",
]
WAYS = {
    "two processes": ["workers=2"],
    "slurm": ["executor=slurm", "executor.memory=2"],
    "ray": ["executor=ray", "executor.memory=2"],
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # of each process: there are two, one a core


def measure(rounds: int = 2) -> list[dict[str, str | float]]:
    """A row for each way: seconds, the median of the rounds, and how many times those of two processes."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        if os.geteuid() == 0 and shutil.which("slurmctld"):
            sys.path.insert(0, str(ROOT / "tests" / "clusters"))
            from slurm import Slurm

            stack.enter_context(Slurm(Path(stack.enter_context(TemporaryDirectory())) / "slurm"))
        else:
            del taken["slurm"]
        for _ in range(rounds):
            for way, seconds in taken.items():
                with TemporaryDirectory() as outputs:
                    start = time.perf_counter()
                    command = [sys.executable, "-m", "runner", *GRID, f"outputs={outputs}", *WAYS[way]]
                    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | ONE_THREAD, capture_output=True)
                    seconds.append(time.perf_counter() - start)
    base, *_ = map(median, taken.values())
    return [{"way": way, "seconds": median(seconds), "times": median(seconds) / base} for way, seconds in taken.items()]


if __name__ == "__main__":
    for row in measure():
        print(f"{row['way']}: {row['seconds']:.1f} s, {row['times']:.2f} times as long")

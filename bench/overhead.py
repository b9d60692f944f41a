"""What a run costs besides its training: whole commands, with few tiny runs and with many."""

import subprocess
import sys
import time
from tempfile import TemporaryDirectory

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=1"]
FEW = 2
SWEEPERS: dict[str, tuple[list[str], int]] = {  # overrides, number of runs
    "Hydra's basic launcher": (["hydra/sweeper=basic"], 62),
    "Hydra's joblib launcher, 2 jobs": (
        ["hydra/sweeper=basic", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        62,
    ),
    "ours": ([], 1002),
}


def measure() -> list[dict[str, str | float]]:
    """One row per way to sweep: milliseconds per run beyond the first few, which carry the start; and the same again when
    everything is done already."""
    rows = []
    for name, (overrides, runs) in SWEEPERS.items():
        with TemporaryDirectory() as outputs:
            few = seconds(outputs, FEW, overrides)
        with TemporaryDirectory() as outputs:
            many, again = seconds(outputs, runs, overrides), seconds(outputs, runs, overrides)
        rows.append(
            {
                "sweep by": name,
                "runs": str(runs),
                "ms a run": (many - few) / (runs - FEW) * 1e3,
                "ms a run, all done before": (again - few) / (runs - FEW) * 1e3,
            }
        )
    return rows


def seconds(outputs: str, runs: int, overrides: list[str]) -> float:
    """Wall time of a sweep over learning rates (Python starts, imports and all)."""
    lrs = ",".join(f"{1e-3 * (k + 1):g}" for k in range(runs))
    command = [
        sys.executable,
        "-m",
        "runner",
        "--multirun",
        *overrides,
        *TINY,
        f"optimizer.lr={lrs}",
        f"outputs={outputs}",
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start

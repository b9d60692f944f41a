"""How long it takes to read a sweep's runs: a folder of many, all made from the files of one."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml

import analysis

RUNS, STEPS, ROUNDS = 1000, 300, 3
RUN = ["task.width=16", "task.teacher_width=16", "task.train_points=20"]
READERS: dict[str, Callable] = {"analysis.load": analysis.load, "analysis.runs": analysis.runs}


def measure(runs: int = RUNS, steps: int = STEPS, rounds: int = ROUNDS) -> list[dict[str, str | float]]:
    """One row per way to read: seconds for all runs, the median of the rounds."""
    with TemporaryDirectory() as outputs:
        folder = store(Path(outputs), runs, steps)
        times: dict[str, list[float]] = {name: [] for name in READERS}
        for _ in range(rounds):
            for name, read in READERS.items():
                start = time.perf_counter()
                read(folder)
                times[name].append(time.perf_counter() - start)
    return [
        {"read by": name, "runs": str(runs), "steps": str(steps), "seconds": median(taken)}
        for name, taken in times.items()
    ]


def store(outputs: Path, runs: int, steps: int) -> Path:
    """A folder of that many runs of an init × lr × seed grid. One is trained, the rest are its files with other ids,
    configurations and checksums."""
    command = [sys.executable, "-m", "runner", *RUN, f"steps={steps}", f"outputs={outputs}"]
    subprocess.run(command, check=True, capture_output=True)
    folder = outputs / "runs" / "scratch"
    [first] = (path for path in folder.iterdir() if path.is_dir())
    config, meta = yaml.safe_load((first / "config.yaml").read_bytes()), json.loads((first / "meta.json").read_bytes())
    for i in range(runs):
        config["init"]["name"] = ("gaussian_A", "gaussian_B")[i % 2]
        config["optimizer"]["lr"] = 2.0 ** -(i // 2 % 12)
        config["seed"] = i // 24
        run = folder / f"{i:016x}"
        shutil.copytree(first, run)
        (run / "config.yaml").write_text(yaml.dump(config, sort_keys=False))
        meta["run_id"] = run.name
        meta["sha256"]["config.yaml"] = hashlib.sha256((run / "config.yaml").read_bytes()).hexdigest()
        (run / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    shutil.rmtree(first)
    return folder


if __name__ == "__main__":
    for row in measure():
        print(f"{row['read by']}: {row['seconds']:.2f} s for {row['runs']} runs of {row['steps']} steps")

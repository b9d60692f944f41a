"""Slurm's queue, and what commands that submitted to it have kept: `outputs/slurm/<cluster>-<user>` holds, by job, what is
submitted, which runs that is (`<job>.runs.json`), and a log (`<job>_0_log.err`), which stays where a job failed.

What jobs do is asked of `squeue`: `sacct` knows nothing where accounting is off.
"""

import getpass
import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from runner.config import ConfigError
from runner.store.files import read_file

NO_ANSWER = "Slurm's controller does not answer"
COMPLETED = "COMPLETED"
KNOWN = "*.runs.json"


def folder_of(outputs: Path) -> Path:
    """Where a user's jobs on this cluster are kept. Raises ConfigError where there is none."""
    try:
        said = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    except OSError:
        said = ""
    if not (cluster := re.search(r"^ClusterName\s*=\s*(\S+)", said, re.MULTILINE)):
        raise ConfigError(f"executor=slurm: {NO_ANSWER} (scontrol); try again once it does")
    return (outputs / "slurm" / f"{cluster[1]}-{getpass.getuser()}").absolute()


def jobs_of(folder: Path) -> dict[str, set[str]]:
    """The jobs that commands have submitted and not seen end, and the names of their runs."""
    jobs = {}
    for path in sorted(folder.glob(KNOWN)):
        with suppress(OSError, ValueError):
            jobs[path.name.removesuffix(KNOWN[1:])] = set(json.loads(read_file(path)))
    return jobs


def keep(folder: Path, job: str, runs: Iterable[str]) -> None:
    """Note that a job that was submitted has these runs, for commands to come."""
    new = folder / f".{job}.new"
    new.write_text(json.dumps(sorted(runs)))
    new.replace(folder / KNOWN.replace("*", job))


def squeue() -> dict[str, tuple[str, str]] | None:
    """State of each job of this user that has not ended, by name, and its machine or why it waits; None where the controller does
    not answer."""
    answer = _asked("--me", "--array", "--format=%i|%T|%N|%r")
    rows = (line.split("|") for line in (answer or "").splitlines() if line.count("|") == 3)
    return None if answer is None else {job: (state, machine or reason) for job, state, machine, reason in rows}


def _asked(*options: str) -> str | None:
    """What squeue says; None where it says nothing."""
    try:
        answer = subprocess.run(["squeue", "--noheader", *options], capture_output=True, text=True)
    except OSError:  # Slurm is not here
        return None
    return None if answer.returncode else answer.stdout


def told(jobs: Sequence[tuple[str, str]]) -> str:
    """How many of these jobs are queued, and where the others run."""
    machines = sorted({machine for state, machine in jobs if state == "RUNNING"})
    running = sum(state == "RUNNING" for state, _ in jobs)
    shown = ", ".join(machines[:4]) + ", …" * (len(machines) > 4)
    reasons = sorted({reason for state, reason in jobs if state == "PENDING"} - {"None"})
    parts = [f"{len(jobs) - running} jobs queued ({', '.join(reasons)})".replace(" ()", "")] * (running < len(jobs))
    parts += [f"{running} running on {shown}"] * bool(running)
    return ", ".join(parts)


def how_it_ended(job: str) -> str:
    """Its last state, as far as the controller still knows it."""
    return (_asked("--states=all", "--format=%T", f"--jobs={job}") or "").strip() or "the controller has forgotten how"


def forget(folder: Path, job: str, keep_log: bool) -> None:
    """Remove what is kept of a job that has ended."""
    for path in folder.glob(f"{job}_*"):
        if path.suffix == ".pkl" or path.suffix == ".sh" or not keep_log:
            path.unlink(missing_ok=True)
    (folder / KNOWN.replace("*", job)).unlink(missing_ok=True)
    if not any(folder.glob(KNOWN)):
        for path in (*folder.glob(".submission_file_*"), *folder.glob("*_submission.sh")):
            path.unlink(missing_ok=True)

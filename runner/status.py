"""`python -m runner status EXPERIMENT`: how many of its runs are stored, and what is in Slurm's queue, on which machine."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runner.config import ConfigError
from runner.config.compose import CONF
from runner.store import packs
from runner.store.outcome import META
from runner.sweeps.executors.slurm_queue import KNOWN, NO_ANSWER, folder_of, jobs_of, squeue


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 where there is no such experiment."""
    parser = argparse.ArgumentParser(prog="python -m runner status", description=__doc__.split(": ", 1)[1])
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a folder of OUTPUTS/runs")
    parser.add_argument("--outputs", default="outputs", help="root of runs and records (default: outputs)")
    options = parser.parse_args(arguments)
    try:
        for line in lines(options.experiment, Path(options.outputs)):
            print(line)
    except (ConfigError, packs.Damaged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def lines(experiment: str, outputs: Path) -> Iterator[str]:
    """What there is to say. Raises ConfigError."""
    runs = outputs / "runs" / experiment
    submitted = jobs_of(folder_of(outputs)) if any((outputs / "slurm").glob(f"*/{KNOWN}")) else {}
    jobs = {job: [r for r in theirs if r.startswith(f"{experiment}/")] for job, theirs in submitted.items()}
    jobs = {job: theirs for job, theirs in jobs.items() if theirs}
    if not runs.is_dir() and not jobs:
        known = (CONF / "experiment" / f"{experiment}.yaml").is_file()
        hint = f"; python -m runner experiment={experiment} trains it" if known else ""
        raise ConfigError(f"EXPERIMENT={experiment!r}: nothing of it is in {outputs}{hint}")
    stored = Counter(map(_status, packs.runs_of(runs)))
    yield f"stored: {', '.join(f'{n} {status}' for status, n in stored.most_common()) or 'none'}"
    states = squeue() if jobs else {}
    if states is None:
        raise ConfigError(f"executor=slurm: {NO_ANSWER} (squeue); try again once it does")
    for job, theirs in jobs.items():
        state, where = states.get(job, ("ended", ""))
        more = f" on {where}" if state == "RUNNING" else f" ({where})" if where else ""
        yield f"job {job}: {state.lower()}{more}, {len(theirs)} runs"


def _status(run: Path) -> str:
    try:
        return json.loads(packs.files(run).read(META))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"

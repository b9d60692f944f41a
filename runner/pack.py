"""`python -m runner pack EXPERIMENT`: put its finished runs into one file, which is read as their directories were."""

import argparse
import json
import sys
from pathlib import Path

from runner.config import ConfigError
from runner.store import packs
from runner.store.outcome import DONE, META, DamagedRun, read_verified
from runner.store.runs import Store, claims_there


def main(arguments: list[str]) -> int:
    """Exit code: 0; 1 where a damaged run was left out; 2 where nothing can be packed."""
    parser = argparse.ArgumentParser(prog="python -m runner pack", description=__doc__.split(": ", 1)[1])
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a folder of OUTPUTS/runs")
    parser.add_argument("--outputs", default="outputs", help="root of runs and records (default: outputs)")
    options = parser.parse_args(arguments)
    try:
        sentence, damaged = pack(options.experiment, Path(options.outputs))
    except (ConfigError, packs.Damaged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for run in damaged:
        print(f"left out damaged run {run}", file=sys.stderr)
    print(sentence)
    return 1 if damaged else 0


def pack(experiment: str, outputs: Path) -> tuple[str, list[str]]:
    """What was done, and the runs that were left out because they cannot be trusted. Raises ConfigError.

    A sweep may go on meanwhile: what another process has claimed is left for later.
    """
    folder = outputs / "runs" / experiment
    if experiment in ("", "..") or Path(experiment).name != experiment or not folder.is_dir():
        raise ConfigError(
            f"EXPERIMENT={experiment!r}: is not there; name a folder of {outputs / 'runs'} with finished runs"
        )
    with Store(str(outputs), claims_there(outputs)) as store:
        if not store.claims.take(f"{experiment}/{packs.NAME}"):
            raise ConfigError(f"EXPERIMENT={experiment!r}: another process is packing it; let it end")
        packs.sweep(folder)
        chosen, damaged = {}, []
        for run in packs.runs_of(folder):
            if run.is_dir() and store.claims.take(f"{experiment}/{run.name}"):
                try:
                    if files := _files(run):
                        chosen[run.name] = files
                except (DamagedRun, OSError, ValueError, KeyError, TypeError) as error:
                    damaged.append(f"{run}: {error}")
        try:
            if chosen:
                packs.write(folder, chosen)
        except OSError as error:
            raise ConfigError(
                f"outputs={outputs}: cannot pack {folder} ({error.strerror or error}); nothing was lost, and once this is mended "
                "the same command goes on"
            ) from error
    return f"packed {len(chosen)} runs into {folder / packs.NAME}", damaged


def _files(run: Path) -> list[str]:
    """Names of a finished or diverged run's files, which are as its checksums say; none of another run."""
    files = packs.files(run)
    meta = json.loads(files.read(META))
    if meta["status"] not in DONE:
        return []
    if meta["run_id"] != run.name:
        raise DamagedRun(f"{run}: holds run {meta['run_id']}")
    read_verified(files, meta, meta["sha256"])
    return [META, *meta["sha256"]]

"""`python -m runner pack EXPERIMENT`: put its finished runs into one file, which is read as their directories were."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from runner.config import ConfigError
from runner.store import packing, packs
from runner.store.outcome import DONE, META, DamagedRun, read_verified
from runner.store.runs import CLAIMS, Store, claims_there


def main(arguments: list[str]) -> int:
    """Exit code: 0; 1 where a run was left out; 2 where nothing can be packed."""
    parser = argparse.ArgumentParser(prog="python -m runner pack", description=__doc__.split(": ", 1)[1])
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a folder of OUTPUTS/runs")
    parser.add_argument(
        "--outputs", type=Path, default=Path("outputs"), help="root of runs and records (default: outputs)"
    )
    parser.add_argument("--undo", action="store_true", help="make directories of what is packed, and remove the pack")
    parser.add_argument(
        "--claims", choices=CLAIMS, help="as store.claims of sweeps there (default: what they left there, or lock)"
    )
    options = parser.parse_args(arguments)
    try:
        with claimed(options.experiment, options.outputs, options.claims) as (folder, store):
            if options.undo:
                count, lost = packing.undo(folder, partial(check, store, options.experiment))
                sentence, left_out = f"made directories of {count} runs of {folder}", _lost(folder, lost)
            else:
                sentence, left_out = pack(folder, store)
    except (ConfigError, packs.Damaged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for reason in left_out:
        print(f"left out {reason}", file=sys.stderr)
    print(sentence)
    return 1 if left_out else 0


@contextmanager
def claimed(experiment: str, outputs: Path, claims: str | None) -> Iterator[tuple[Path, Store]]:
    """The experiment's folder, whose pack no other process writes within, and the store. Raises ConfigError."""
    folder = outputs / "runs" / experiment
    if experiment in ("", "..") or Path(experiment).name != experiment or not folder.is_dir():
        raise ConfigError(
            f"EXPERIMENT={experiment!r}: is not there; name a folder of {outputs / 'runs'} with finished runs"
        )
    with Store(str(outputs), claims or claims_there(outputs)) as store:
        if not store.claims.take(_name(experiment)):
            raise ConfigError(f"EXPERIMENT={experiment!r}: another process is packing it; let it end")
        try:
            packing.sweep(folder)
            yield folder, store
        except packs.Damaged:
            raise
        except OSError as error:
            raise ConfigError(
                f"outputs={outputs}: cannot pack {folder} ({error.strerror or error}); nothing was lost, and once this is mended "
                "the same command goes on"
            ) from error


def pack(folder: Path, store: Store) -> tuple[str, list[str]]:
    """What was done, and what was left out, and why. Raises ConfigError and OSError.

    A sweep may go on meanwhile: what another process has claimed is left for later.
    """
    chosen, left_out = {}, []
    for run in packs.runs_of(folder):
        if not run.is_dir() or _status(run) not in DONE or not store.claims.take(_name(folder.name, run.name)):
            continue
        try:
            verified(run)
        except DAMAGE as error:
            left_out.append(f"damaged run {run}: {error}")
        else:
            chosen[run.name] = partial(_again, run)
            continue
        store.claims.give_back(_name(folder.name, run.name))
    if chosen:
        left_out += _lost(folder, packing.write(folder, chosen, partial(check, store, folder.name)))
    return f"packed {len(chosen)} runs into {folder / packs.NAME}", left_out


DAMAGE = (DamagedRun, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def verified(run: Path) -> dict[str, bytes]:
    """All files of a run's directory, which are as its checksums say. Raises one of DAMAGE, also where there are others."""
    files = packs.files(run)
    data = files.read(META)
    meta = json.loads(data)
    if meta["run_id"] != run.name:
        raise DamagedRun(f"holds run {meta['run_id']}")
    if others := {path.name for path in run.iterdir()} - {META, *meta["sha256"]}:
        raise DamagedRun(f"holds {min(others)}, which is no file of a run; move it elsewhere")
    return {META: data} | read_verified(files, meta, meta["sha256"])


def _again(run: Path) -> dict[str, bytes]:
    """The same, of a run that was right a moment before. Raises ConfigError."""
    try:
        return verified(run)
    except DAMAGE as error:
        raise ConfigError(f"{run}: changed meanwhile ({error}); try again") from error


def _lost(folder: Path, runs: Sequence[str]) -> list[str]:
    return [f"{folder / run}, which is damaged in the pack: the same commands train it again" for run in runs]


def check(store: Store, experiment: str, *runs: str) -> None:
    """Raises ConfigError unless the pack, and these runs, are still ours to write: others may have taken over meanwhile."""
    if not all(store.claims.take(name) for name in (_name(experiment), *(_name(experiment, run) for run in runs))):
        raise ConfigError(f"EXPERIMENT={experiment!r}: another process is at it, or took over from this one; try again")


def _status(run: Path) -> str | None:
    try:
        return json.loads(packs.files(run).read(META))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is damaged is told by sweeps and by analysis


def _name(experiment: str, what: str = packs.NAME) -> str:
    return f"{experiment}/{what}"

"""The store: `outputs/runs/<experiment>/<run_id>/`, one directory per run, complete or not there at all.

    config.yaml    the resolved configuration
    meta.json      status, error, times, versions, git commit, device, engine, stack size, and SHA-256 of the other files
    steps.parquet  one row per logged step (finished and diverged runs)
    layers.parquet one row per logged step and layer (where `log.layers` asks for it)
    adapter.safetensors  what a finished run trained, by layer and parameter (where `log.weights` asks for it)
    summary.json   the run in a few numbers (finished and diverged runs)

A directory is written under a hidden name and renamed into place, by a process that holds the run's claim. A power cut may
still leave files without their contents; checksums tell, and the run is trained again.
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import save

from runner.config import Config, ConfigError
from runner.config.identity import as_kept, run_id
from runner.store.files import read_file

FINISHED, DIVERGED, FAILED, INTERRUPTED = "finished", "diverged", "failed", "interrupted"
DONE = (FINISHED, DIVERGED)
CONFIG, STEPS, SUMMARY = "config.yaml", "steps.parquet", "summary.json"
LAYERS, WEIGHTS = "layers.parquet", "adapter.safetensors"
FILES = (CONFIG, STEPS, SUMMARY)  # of a run that is done, besides meta.json


@dataclass(frozen=True)
class Outcome:
    """How one run ended. `steps` and `summary` exist for finished and diverged runs, `layers` where the configuration asks
    for it, `weights` for finished ones where it does, `error` for failed ones. `engine`: which trained it."""

    status: str
    steps: pd.DataFrame | None = None
    summary: dict[str, Any] | None = None
    error: str | None = None
    layers: pd.DataFrame | None = None
    weights: dict[str, np.ndarray] | None = None
    engine: str | None = None


class DamagedRun(Exception):
    """A run directory that is there but cannot be trusted."""


class Store:
    """Runs under the root folder `outputs`, addressed by the content of their configuration.

    A claim on a run is a lock on one byte of the file `.lock`, at a place that the run's name gives. The system drops a
    process's claims when it ends, however it ends, so none is ever left behind; a process has one store, because closing
    the file drops them too.
    """

    def __init__(self, root: str):
        self.runs = Path(root) / "runs"
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            self.lock = os.open(self.runs / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            probe = self.runs / ".probe"  # one name for all, so that one left by a killed process goes with the next
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"outputs={root}: cannot write there ({error.strerror}); choose a folder you can write to"
            ) from error

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.lock)

    def claim(self, config: Config) -> bool:
        """Take the right to train and write a run; False while another process has it."""
        try:
            fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(config))
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise ConfigError(
                f"outputs={self.runs.parent}: cannot lock files there ({error.strerror}); choose a folder on a file system "
                "that can"
            ) from error
        return True

    def release(self, config: Config) -> None:
        """Give a claim back."""
        fcntl.lockf(self.lock, fcntl.LOCK_UN, 1, _place(config))

    def path(self, config: Config) -> Path:
        return self.runs / config.experiment / run_id(config)

    def summary(self, config: Config) -> dict[str, Any] | None:
        """The summary of a finished or diverged run, with its status; None where there is none yet.

        Raises DamagedRun where the directory exists but a file is missing or differs from its recorded checksum.
        """
        path = self.path(config)
        if not path.exists():
            return None
        try:
            meta = json.loads(read_file(path / "meta.json"))
            if meta["run_id"] != path.name:
                raise DamagedRun(f"{path}: holds run {meta['run_id']}")
            if meta["status"] in (FAILED, INTERRUPTED):
                return None
            if meta["status"] not in DONE:
                raise DamagedRun(f"{path}: unknown status {meta['status']!r}")
            files = (*FILES, LAYERS) if config.log.layers else FILES
            contents = read_verified(path, meta, files)
            if WEIGHTS in meta["sha256"] and not (path / WEIGHTS).exists():  # large: runner.export reads it
                raise DamagedRun(f"{path}: {WEIGHTS} is missing")
            return {"status": meta["status"], **json.loads(contents[SUMMARY])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedRun(f"{path}: {type(error).__name__}: {error}") from error

    def outcome(self, config: Config) -> Outcome | None:
        """How a run ended that is stored as finished, diverged or failed; None where it is not, or cannot be trusted."""
        try:
            return read_outcome(self.path(config))
        except (DamagedRun, OSError, ValueError, KeyError, TypeError):
            return None

    def discard(self, config: Config) -> None:
        """Remove what an earlier attempt left without a result. The caller has claimed the run."""
        if not self.holds(config):
            shutil.rmtree(self.path(config), ignore_errors=True)

    def holds(self, config: Config) -> bool:
        """Whether there is a result of the run that can be trusted."""
        try:
            return self.summary(config) is not None
        except DamagedRun:
            return False

    def columns(self, config: Config) -> set[str]:
        """The columns of a finished or diverged run's steps."""
        return set(pq.read_schema(self.path(config) / STEPS).names)

    def write(self, config: Config, outcome: Outcome, context: dict[str, Any]) -> Path:
        """Write a run's directory, replacing what was there; `context` joins meta.json. Returns the directory.

        The caller has claimed the run. A result is replaced by a result alone: one that could not be had again stays.
        Raises ConfigError where the folder cannot be written (a full disk, say); what was there before then stays.
        """
        path = self.path(config)
        if outcome.status not in DONE and self.holds(config):
            return path
        new = path.with_name(f".{path.name}-new")
        try:
            shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
            new.mkdir(parents=True)
            for name, contents in _contents(config, outcome, {"run_id": path.name, **context}).items():
                (new / name).write_bytes(contents)
            if path.is_symlink() or path.is_file():  # not ours
                path.unlink()
            elif path.exists():  # without a result, or damaged
                shutil.rmtree(path)
            new.rename(path)
        except OSError as error:
            raise ConfigError(
                f"outputs={self.runs.parent}: cannot write {path} ({error.strerror or error}); "
                "what is stored already is safe, and once this is mended the same command trains the rest"
            ) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return path


def read_outcome(path: Path) -> Outcome | None:
    """How the run ended whose directory this is, as far as its curves and summary go; None where it was interrupted, or is not
    there. Raises DamagedRun, OSError, ValueError, KeyError and TypeError."""
    if not path.exists():
        return None
    meta = json.loads(read_file(path / "meta.json"))
    if meta["status"] not in DONE:
        return Outcome(FAILED, error=meta["error"]) if meta["status"] == FAILED else None
    contents = read_verified(path, meta, (STEPS, SUMMARY))
    steps = pd.read_parquet(io.BytesIO(contents[STEPS]))
    return Outcome(meta["status"], steps, json.loads(contents[SUMMARY]))


def read_verified(run: Path, meta: dict[str, Any], names: Iterable[str]) -> dict[str, bytes]:
    """Files of a run's directory. Raises DamagedRun where one differs from its checksum in `meta`, and OSError, KeyError."""
    contents = {name: read_file(run / name) for name in names}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != meta["sha256"][name]:
            raise DamagedRun(f"{run}: {name} differs from its checksum")
    return contents


def run_name(config: Config) -> str:
    """A run's, among all of a store."""
    return f"{config.experiment}/{run_id(config)}"


def _place(config: Config) -> int:
    """A byte offset for a run, below 2^62."""
    return int.from_bytes(hashlib.sha256(run_name(config).encode()).digest()[:8], "big") >> 2


def _contents(config: Config, outcome: Outcome, context: dict[str, Any]) -> dict[str, bytes]:
    """File name -> contents of a run's directory."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times faster where PyYAML has it
    files = {CONFIG: yaml.dump(as_kept(config), Dumper=dumper, sort_keys=False, allow_unicode=True).encode()}
    if outcome.steps is not None:
        # Measured numbers hardly repeat: a dictionary would only cost time.
        files |= {STEPS: _parquet(outcome.steps), SUMMARY: _json(outcome.summary)}
    if outcome.layers is not None:
        files |= {LAYERS: _parquet(outcome.layers, dictionary=["layer"])}
    if outcome.weights is not None:
        files |= {WEIGHTS: save(outcome.weights)}
    checksums = {name: hashlib.sha256(contents).hexdigest() for name, contents in sorted(files.items())}
    told = {"status": outcome.status, "error": outcome.error, "engine": outcome.engine}
    meta = {**told, **context, **provenance(), "sha256": checksums}
    return files | {"meta.json": _json(meta)}


def _parquet(frame: pd.DataFrame, dictionary: list[str] | bool = False) -> bytes:
    table, buffer = pa.table({name: frame[name].to_numpy() for name in frame}), io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=dictionary, write_statistics=False)
    return buffer.getvalue()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


@cache
def provenance() -> dict[str, Any]:
    """Versions, git commit and dirty flag of the code that runs; null commit outside a git checkout."""
    return {
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("torch", "transformers", "numpy", "pandas", "pyarrow", "hydra-core")},
        },
        "git": {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        },
    }


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # git is not installed
        return None
    return result.stdout.strip() if result.returncode == 0 else None

"""The store: `outputs/runs/<experiment>/<run_id>/`, one directory per run, complete or not there at all.

    config.yaml    the resolved configuration
    meta.json      status, error, times, versions, git commit, device, engine, stack size, and SHA-256 of the other files
    steps.parquet  one row per logged step (finished and diverged runs)
    summary.json   the run in a few numbers (finished and diverged runs)

A directory is written under a temporary name and renamed into place.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from runner.config import as_dict, run_id
from runner.schema import Config, ConfigError

FINISHED, DIVERGED, FAILED, INTERRUPTED = "finished", "diverged", "failed", "interrupted"
DONE = (FINISHED, DIVERGED)
FILES = ("config.yaml", "steps.parquet", "summary.json")  # of a run that is done, besides meta.json


@dataclass(frozen=True)
class Outcome:
    """How one run ended. `steps` and `summary` exist for finished and diverged runs, `error` for failed ones."""

    status: str
    steps: pd.DataFrame | None = None
    summary: dict[str, Any] | None = None
    error: str | None = None


class DamagedRun(Exception):
    """A run directory that is there but cannot be trusted."""


class Store:
    """Runs under the root folder `outputs`, addressed by the content of their configuration."""

    def __init__(self, root: str):
        self.runs = Path(root) / "runs"
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            probe = self.runs / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"outputs={root}: cannot write there ({error.strerror}); choose a folder you can write to"
            ) from error

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
            meta = json.loads((path / "meta.json").read_bytes())
            if meta["run_id"] != path.name:
                raise DamagedRun(f"{path}: holds run {meta['run_id']}")
            if meta["status"] in (FAILED, INTERRUPTED):
                return None
            if meta["status"] not in DONE:
                raise DamagedRun(f"{path}: unknown status {meta['status']!r}")
            contents = {name: (path / name).read_bytes() for name in FILES}
            for name in FILES:
                if hashlib.sha256(contents[name]).hexdigest() != meta["sha256"][name]:
                    raise DamagedRun(f"{path}: {name} differs from its checksum")
            return {"status": meta["status"], **json.loads(contents["summary.json"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedRun(f"{path}: {type(error).__name__}: {error}") from error

    def write(self, config: Config, outcome: Outcome, context: dict[str, Any]) -> Path:
        """Write a run's directory, replacing what was there; `context` joins meta.json. Returns the directory.

        Raises ConfigError where the folder cannot be written (a full disk, say); what was there before then stays.
        """
        path = self.path(config)
        new, old = (path.with_name(f".{path.name}-{os.getpid()}-{suffix}") for suffix in ("new", "old"))
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            self._fill(new, config, outcome, {"run_id": path.name, **context})
            with suppress(FileNotFoundError):
                path.rename(old)
            try:
                new.rename(path)
            except OSError:
                if not path.exists():
                    if old.exists():
                        old.rename(path)
                    raise
                # Another process has stored the same run in this moment: one result is as good as the other.
        except OSError as error:
            raise ConfigError(
                f"outputs={self.runs.parent}: cannot store run {path.name} ({error.strerror}); "
                "what is stored already is safe, and the same command trains the rest"
            ) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        return path

    @staticmethod
    def _fill(folder: Path, config: Config, outcome: Outcome, context: dict[str, Any]) -> None:
        OmegaConf.save(OmegaConf.create(as_dict(config)), folder / "config.yaml")
        if outcome.steps is not None:
            outcome.steps.to_parquet(folder / "steps.parquet", compression="zstd", index=False)
            (folder / "summary.json").write_text(json.dumps(outcome.summary, indent=1) + "\n")
        checksums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
        meta = {"status": outcome.status, "error": outcome.error, **context, **provenance(), "sha256": checksums}
        (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


@cache
def provenance() -> dict[str, Any]:
    """Versions, git commit and dirty flag of the code that runs; null commit outside a git checkout."""
    return {
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("torch", "numpy", "pandas", "pyarrow", "hydra-core")},
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

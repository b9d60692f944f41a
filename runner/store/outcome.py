"""How a run ended, and the files that say so.

config.yaml    the resolved configuration
meta.json      status, error, times, versions, git commit, device, engine, stack size, and SHA-256 of the other files
steps.parquet  one row per logged step (finished and diverged runs)
layers.parquet one row per logged step and layer (where `log.layers` asks for it)
adapter.safetensors  what a finished run trained, by layer and parameter (where `log.weights` asks for it)
summary.json   the run in a few numbers (finished and diverged runs)
"""

import hashlib
import io
import json
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

from runner.config import Config
from runner.config.identity import as_kept
from runner.store import packs

FINISHED, DIVERGED, FAILED, INTERRUPTED = "finished", "diverged", "failed", "interrupted"
DONE = (FINISHED, DIVERGED)
CONFIG, META, STEPS, SUMMARY = "config.yaml", packs.META, "steps.parquet", "summary.json"
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


def read_outcome(path: Path) -> Outcome | None:
    """How the run ended whose directory this is, as far as its curves and summary go; None where it was interrupted, or is not
    there. Raises DamagedRun, OSError, ValueError, KeyError and TypeError."""
    if (files := packs.find(path)) is None:
        return None
    meta = json.loads(files.read(META))
    if meta["status"] not in DONE:
        return Outcome(FAILED, error=meta["error"]) if meta["status"] == FAILED else None
    contents = read_verified(files, meta, (STEPS, SUMMARY))
    steps = pd.read_parquet(io.BytesIO(contents[STEPS]))
    return Outcome(meta["status"], steps, json.loads(contents[SUMMARY]))


def read_verified(files: packs.Files, meta: dict[str, Any], names: Iterable[str]) -> dict[str, bytes]:
    """Files of a run. Raises DamagedRun where one differs from its checksum in `meta`, and OSError, KeyError."""
    contents = {name: files.read(name) for name in names}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != meta["sha256"][name]:
            raise DamagedRun(f"{files.path}: {name} differs from its checksum")
    return contents


def contents_of(config: Config, outcome: Outcome, context: dict[str, Any]) -> dict[str, bytes]:
    """File name -> contents of a run's directory; `context` joins meta.json."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times faster where PyYAML has it
    files = {CONFIG: yaml.dump(as_kept(config), Dumper=dumper, sort_keys=False, allow_unicode=True).encode()}
    if outcome.steps is not None:
        # Measured numbers hardly repeat: a dictionary would only cost time.
        files |= {STEPS: _parquet(outcome.steps), SUMMARY: _json(outcome.summary)}
    if outcome.layers is not None:
        files |= {LAYERS: _parquet(outcome.layers, dictionary=["layer"])}
    if outcome.weights is not None:
        files |= {WEIGHTS: save(outcome.weights)}
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
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

"""Read runs, from run directories or from a record file, as one tidy table.

Columns: `run_id`, `status`; the configuration flattened (`init.name`, `task.width`, `optimizer.lr`, …); the run's summary
(`summary.final_loss`, …); `step` and the measured columns (`grad/A`, …, `balance`).
"""

import hashlib
import json
import warnings
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis.tables import blocks, schema
from runner.config.options import LARGEST_INTEGER
from runner.store import packs
from runner.store.files import read_file

STEPS, LAYERS = "steps.parquet", "layers.parquet"
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError, pa.ArrowException)
NAMED = 10  # folders that a message names


class DamagedRun(UserWarning):
    """A run directory was skipped because its files cannot be trusted."""


class DamagedTable(ValueError):
    """A record that cannot be trusted."""


def load(path: str | Path) -> pd.DataFrame:
    """One row per run × logged step of the finished and diverged runs under `path`.

    `path` is a folder of run directories, one run directory, or a record (.parquet). A damaged run directory is skipped
    with a DamagedRun warning that names it. Raises FileNotFoundError where there is nothing, DamagedTable for a record.
    """
    path = Path(path)
    if path.is_file():
        return record(path)
    table, steps = _read_all(path, with_steps=True)
    rows = np.repeat(np.arange(len(table)), [part.num_rows for part in steps])
    measured = pa.concat_tables(steps, promote_options="permissive").to_pandas()
    frame = pd.concat([table.take(rows).reset_index(drop=True), measured], axis=1)
    if bad := schema.faults(frame):
        for run, why in bad.items():
            _skipped(path if path.name == run else path / run, ValueError(f"{STEPS}: {why}"))
        frame = frame[~frame["run_id"].isin(bad)].reset_index(drop=True)
    if frame.empty:
        raise FileNotFoundError(f"no finished runs in {path}")
    return frame


def runs(path: str | Path) -> pd.DataFrame:
    """One row per run: identity, status, configuration and summary.

    `path` and errors as of `load`, but that the contents of steps.parquet are not looked at: it must only be there.
    """
    path = Path(path)
    if path.is_file():
        return per_run(record(path))
    return per_run(_read_all(path, with_steps=False)[0])


def layers(path: str | Path, run_ids: Collection[str]) -> pd.DataFrame:
    """One row per logged step and layer of those of these runs under the folder `path` that kept their layers."""
    tables = []
    for run in run_ids:
        folder = Path(path) / run
        try:
            files, meta = opened(folder)
            if LAYERS in meta["sha256"]:
                table = _table(_checked(files, LAYERS, meta)).to_pandas().assign(run_id=run)
                if bad := schema.faults(table):
                    raise ValueError(f"{LAYERS}: {bad[run]}")
                tables.append(table)
        except DAMAGE as error:
            _skipped(folder, error)
    return pd.concat(tables) if tables else pd.DataFrame(columns=["run_id", "step", "layer"])


def origins(path: str | Path, run_ids: Sequence[str]) -> list[dict[str, str]]:
    """Of each of these runs under the folder `path`: the commit, versions and device that made it, as far as it is written."""
    return [_origin(Path(path) / run) for run in run_ids]


def _origin(folder: Path) -> dict[str, str]:
    try:
        _, meta = opened(folder)
        git = meta.get("git") or {}
        commit = f"{git['commit']}{', with changes' * bool(git.get('dirty'))}" if git.get("commit") else ""
        versions = ", ".join(f"{name} {version}" for name, version in (meta.get("versions") or {}).items())
        told = {"commit": commit, "versions": versions} | {
            key: str(meta.get(key) or "") for key in ("device", "engine")
        }
    except DAMAGE as error:
        return {"unknown": _reason(error)}
    return {key: text for key, text in told.items() if text}


def per_run(frame: pd.DataFrame) -> pd.DataFrame:
    """The run-level columns of a loaded table, one row per run."""
    columns = [name for name in frame.columns if name not in ("step", "layer") and not schema.is_measured(name)]
    return frame[columns].drop_duplicates("run_id").reset_index(drop=True)


def record(path: Path) -> pd.DataFrame:
    """The table of a record. Raises DamagedTable, also where it is no file."""
    try:
        return _checked_record(read_file(path)).copy()
    except DAMAGE as error:
        raise DamagedTable(f"{path} is damaged ({_reason(error)})") from error


@lru_cache(maxsize=16)  # a command asks several times for the same record
def _checked_record(contents: bytes) -> pd.DataFrame:
    """The table in a record's bytes; shared, so it is not to be changed. Raises what DAMAGE lists."""
    file = pq.ParquetFile(pa.BufferReader(contents))
    schema.check_columns(file, schema.NEEDED)
    frame = file.read().to_pandas()
    for row in per_run(frame)[[name for name in schema.RULES if name in frame]].to_dict("records"):
        schema.check_run(row)
    if bad := schema.faults(frame) | schema.changes(frame):
        raise ValueError("run {}: {}".format(*next(iter(bad.items()))))
    return frame


def _read_all(path: Path, with_steps: bool) -> tuple[pd.DataFrame, list[pa.Table]]:
    """The run-level columns of the results under `path`, a row each, and their steps. Raises FileNotFoundError."""
    found = [read for folder in run_folders(path) if (read := _read(folder, with_steps))]
    if not found:
        raise FileNotFoundError(f"no finished runs in {path}")
    return pd.DataFrame([row for row, _ in found]), [steps for _, steps in found]


def run_folders(path: Path) -> list[Path]:
    """Folders of runs, damaged or not. Raises FileNotFoundError, also for a folder of such folders."""
    if all(map(packs.files(path).has, ("meta.json", "config.yaml"))):
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no such folder or record: {path}")
    items = [item for item in path.iterdir() if not item.name.startswith(".")]
    folders = sorted(item for item in items if item.is_dir() or item.is_symlink())
    packed = _packed(path)
    if packed or any((folder / name).exists() for folder in folders for name in ("meta.json", "config.yaml", STEPS)):
        return sorted({*folders, *packed})
    if experiments := [
        folder.name for folder in folders if next(folder.glob("*/meta.json"), None) or (folder / packs.NAME).exists()
    ]:
        more = f" and {len(experiments) - NAMED} more" if len(experiments) > NAMED else ""
        raise FileNotFoundError(
            f"{path} holds folders of runs, and no runs itself; name one of them: {', '.join(experiments[:NAMED])}{more}"
        )
    return []


def _packed(path: Path) -> list[Path]:
    """Runs that have no directory; none, with a warning, where what they are in is damaged."""
    try:
        return packs.packed(path)
    except OSError as error:
        _skipped(path / packs.NAME, error)
        return []


def _read(folder: Path, with_steps: bool) -> tuple[dict[str, Any], pa.Table] | None:
    """(run-level columns, steps) of one run directory; None, with a warning where it is damaged, if there is no result.

    Without steps their table is empty, and of steps.parquet nothing is known but that it is there.
    """
    try:
        files, meta = opened(folder)
        if meta["status"] in ("failed", "interrupted"):
            return None
        config = blocks.parse(_checked(files, "config.yaml", meta))
        steps = _table(_checked(files, STEPS, meta)) if with_steps else pa.table({})
        summary = json.loads(_checked(files, "summary.json", meta))
        if not with_steps and not files.has(STEPS):
            raise ValueError(f"{STEPS} is missing")
        identity = {"run_id": meta["run_id"], "status": meta["status"]}
        row = identity | _flatten(config) | _flatten(summary, "summary.") | identity
        schema.check_run(row, (*schema.NEEDED, *schema.IN_A_FOLDER, schema.RESULT))
        if twice := set(row) & set(steps.column_names):
            raise ValueError(f"{STEPS} has {min(twice)}, which says of a run what it is")
    except DAMAGE as error:
        _skipped(folder, error)
        return None
    return row, steps


def _skipped(folder: Path, error: Exception) -> None:
    warnings.warn(f"skipped damaged run {folder}: {_reason(error)}", DamagedRun, stacklevel=2)


def _reason(error: Exception) -> str:
    """An error in one line."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else f"{error}"
    return f"{type(error).__name__}: {' '.join(text.split())[:200]}"


def opened(folder: Path) -> tuple[packs.Files, dict[str, Any]]:
    """A run's files, and its meta.json. Raises ValueError where it is another run's."""
    files = packs.files(folder)
    meta = json.loads(files.read("meta.json"))
    if meta["run_id"] != folder.name:
        raise ValueError(f"holds run {meta['run_id']}")
    return files, meta


def _checked(files: packs.Files, name: str, meta: dict[str, Any]) -> bytes:
    """A file's contents. Raises ValueError where they differ from the checksum in meta.json."""
    contents = files.read(name)
    if hashlib.sha256(contents).hexdigest() != meta["sha256"][name]:
        raise ValueError(f"{name} differs from its checksum")
    return contents


def _table(contents: bytes) -> pa.Table:
    """Steps of a run, or of its layers. Raises ValueError."""
    file = pq.ParquetFile(pa.BufferReader(contents))
    schema.check_columns(file)
    # It is a small file: for threads of pyarrow's own there is nothing to share out.
    return file.read(use_threads=False)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> number, text or null; of a list its values in one text. Raises ValueError for anything else."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat[f"{prefix}{key}"] = ", ".join(map(str, value))
        elif (
            value is None
            or isinstance(value, str | float)
            or (isinstance(value, int) and abs(value) <= LARGEST_INTEGER)
        ):
            flat[f"{prefix}{key}"] = value
        else:
            raise ValueError(f"{prefix}{key} is no number and no text, or too large a number")
    return flat

"""Read runs, from run directories or from a record file, as one tidy table.

Columns: `run_id`, `status`; the configuration flattened (`init.name`, `task.width`, `optimizer.lr`, …); the run's summary
(`summary.final_loss`, …); `step` and the measured columns (`grad/A`, …, `balance`).
"""

import hashlib
import json
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis.tables import blocks

STEPS = "steps.parquet"
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError, pa.ArrowException)


class DamagedRun(UserWarning):
    """A run directory was skipped because its files cannot be trusted."""


def load(path: str | Path) -> pd.DataFrame:
    """One row per run × logged step of the finished and diverged runs under `path`.

    `path` is a folder of run directories, one run directory, or a record (.parquet). A damaged run directory is skipped
    with a DamagedRun warning that names it. Raises FileNotFoundError where there is nothing.
    """
    path = Path(path)
    if path.is_file():
        return pd.read_parquet(path)
    table, steps = _read_all(path, with_steps=True)
    rows = np.repeat(np.arange(len(table)), [part.num_rows for part in steps])
    measured = pa.concat_tables(steps, promote_options="permissive").to_pandas()
    return pd.concat([table.take(rows).reset_index(drop=True), measured], axis=1)


def runs(path: str | Path) -> pd.DataFrame:
    """One row per run: identity, status, configuration and summary.

    `path` and errors as of `load`, but that the contents of steps.parquet are not looked at: it must only be there.
    """
    path = Path(path)
    if path.is_file():
        return per_run(pd.read_parquet(path))
    return per_run(_read_all(path, with_steps=False)[0])


def layers(path: str | Path, run_ids: Collection[str]) -> pd.DataFrame:
    """One row per logged step and layer of those of these runs under the folder `path` that kept their layers."""
    tables = []
    for run in run_ids:
        file = Path(path) / run / "layers.parquet"
        try:
            tables.append(pd.read_parquet(file).assign(run_id=run))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # pyarrow's own errors are among these
            warnings.warn(f"skipped damaged {file}: {str(error).splitlines()[0]}", DamagedRun, stacklevel=2)
    return pd.concat(tables) if tables else pd.DataFrame(columns=["run_id", "step", "layer"])


def per_run(frame: pd.DataFrame) -> pd.DataFrame:
    """The run-level columns of a loaded table, one row per run."""
    columns = [name for name in frame.columns if name != "step" and not is_measured(name)]
    return frame[columns].drop_duplicates("run_id").reset_index(drop=True)


def is_measured(column: str) -> bool:
    """Whether a column of a loaded table belongs to a step rather than to a run."""
    return "/" in column or column == "balance"


def _read_all(path: Path, with_steps: bool) -> tuple[pd.DataFrame, list[pa.Table]]:
    """The run-level columns of the results under `path`, a row each, and their steps. Raises FileNotFoundError."""
    found = [read for folder in _run_folders(path) if (read := _read(folder, with_steps))]
    if not found:
        raise FileNotFoundError(f"no finished runs in {path}")
    return pd.DataFrame([row for row, _ in found]), [steps for _, steps in found]


def _run_folders(path: Path) -> list[Path]:
    if (path / "meta.json").exists() and (path / "config.yaml").exists():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no such folder or record: {path}")
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _read(folder: Path, with_steps: bool) -> tuple[dict[str, Any], pa.Table] | None:
    """(run-level columns, steps) of one run directory; None, with a warning where it is damaged, if there is no result.

    Without steps their table is empty, and of steps.parquet nothing is known but that it is there.
    """
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        if meta["run_id"] != folder.name:
            raise ValueError(f"holds run {meta['run_id']}")
        if meta["status"] in ("failed", "interrupted"):
            return None
        config = blocks.parse(_checked(folder, "config.yaml", meta))
        steps = _table(_checked(folder, STEPS, meta)) if with_steps else pa.table({})
        summary = json.loads(_checked(folder, "summary.json", meta))
        if not with_steps:
            (folder / STEPS).stat()
        row = {"run_id": meta["run_id"], "status": meta["status"]} | _flatten(config) | _flatten(summary, "summary.")
    except DAMAGE as error:
        warnings.warn(f"skipped damaged run {folder}: {type(error).__name__}: {error}", DamagedRun, stacklevel=5)
        return None
    return row, steps


def _checked(folder: Path, name: str, meta: dict[str, Any]) -> bytes:
    """A file's contents. Raises ValueError where they differ from the checksum in meta.json."""
    contents = (folder / name).read_bytes()
    if hashlib.sha256(contents).hexdigest() != meta["sha256"][name]:
        raise ValueError(f"{name} differs from its checksum")
    return contents


def _table(contents: bytes) -> pa.Table:
    # A run's steps are a small file: for threads of pyarrow's own there is nothing to share out.
    return pq.ParquetFile(pa.BufferReader(contents)).read(use_threads=False)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat

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

import pandas as pd
import yaml


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
    loaded = [_read(folder) for folder in _run_folders(path)]
    frames = [steps.assign(run_id=row["run_id"]) for row, steps in filter(None, loaded)]
    rows = [row for row, _ in filter(None, loaded)]
    if not rows:
        raise FileNotFoundError(f"no finished runs in {path}")
    return pd.DataFrame(rows).merge(pd.concat(frames), on="run_id")


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


def runs(path: str | Path) -> pd.DataFrame:
    """One row per run: identity, status, configuration and summary."""
    return per_run(load(path))


def per_run(frame: pd.DataFrame) -> pd.DataFrame:
    """The run-level columns of a loaded table, one row per run."""
    columns = [name for name in frame.columns if name != "step" and not is_measured(name)]
    return frame[columns].drop_duplicates("run_id").reset_index(drop=True)


def is_measured(column: str) -> bool:
    """Whether a column of a loaded table belongs to a step rather than to a run."""
    return "/" in column or column == "balance"


def _run_folders(path: Path) -> list[Path]:
    if (path / "meta.json").exists() and (path / "config.yaml").exists():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no such folder or record: {path}")
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame] | None:
    """(run-level columns, steps) of one run directory; None, with a warning where it is damaged, if there is no result."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        if meta["run_id"] != folder.name:
            raise ValueError(f"holds run {meta['run_id']}")
        if meta["status"] in ("failed", "interrupted"):
            return None
        for name in ("config.yaml", "steps.parquet", "summary.json"):
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != meta["sha256"][name]:
                raise ValueError(f"{name} differs from its checksum")
        config = yaml.safe_load((folder / "config.yaml").read_bytes())
        summary = json.loads((folder / "summary.json").read_bytes())
        steps = pd.read_parquet(folder / "steps.parquet")
        row = {"run_id": meta["run_id"], "status": meta["status"]} | _flatten(config) | _flatten(summary, "summary.")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        warnings.warn(f"skipped damaged run {folder}: {type(error).__name__}: {error}", DamagedRun, stacklevel=4)
        return None
    return row, steps


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat

"""Records: the small, committed distillate of an experiment's runs, from which every figure and claim is rebuilt."""

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import files
from analysis.grid import AXES, PLACES, Grid
from analysis.tables import load, where
from analysis.tables.schema import is_measured
from analysis.tables.settings import comparable, without_baseline

EARLY = 10  # the theory speaks of a few steps: increments are compared at this step
BOTH_MOVED = 2  # the first step whose Z_A and Z_B see a move of A and of B under either init: A's waits for B's
LAYERS = ".layers"  # ends the name of a record of layers, beside the experiment's own
LANDMARKS = (0, 1, BOTH_MOVED, EARLY)  # steps kept for every run, besides the last
LOOKED = "stability/critical_lr"  # is there at a step whose sharpness was measured
CURVE_POINTS = 60  # rows kept of a run at the best learning rate, besides its first EARLY


class MissingRecords(Exception):
    """An experiment has neither runs nor records; the message names the command that makes them."""


class DamagedRecord(MissingRecords):
    """A record is there and cannot be trusted."""


def refresh(
    outputs: Path,
    experiment: str,
    axes: Sequence[str] = (),
    runs: pd.DataFrame | None = None,
    kept: Sequence[str] = (),
) -> str | None:
    """Distill the experiment's runs, if there are any, into its record; returns a sentence about what was done.

    `axes`: what the sweep varies besides AXES; each part of it is a grid of its own. `kept`: the columns of a record of layers.
    `runs`: the loaded table, where the caller has it already.
    The experiment's name with LAYERS at its end stands for the record of its layers.
    A record is not replaced by one of fewer runs: a quick look at a corner of an experiment must not cost its record.
    """
    folder, path = runs_folder(outputs, experiment), record_path(outputs, experiment)
    try:
        loaded = load.load(folder) if runs is None else runs
    except FileNotFoundError:
        return None
    record = distilled(loaded, axes, folder if experiment.endswith(LAYERS) else None, kept)
    if record.empty:
        return None
    count = record["run_id"].nunique()
    there = count if experiment.endswith(LAYERS) else loaded["run_id"].nunique()  # of all settings
    before = size(outputs, experiment)
    if there < before:
        return f"kept {path}: it holds {before} runs and {folder} only {there}; delete the record to replace it"
    with files.written(path) as new:
        _of_one_kind(_ordered(record)).to_parquet(
            new, compression="zstd", compression_level=19, index=False, **_encoding(record)
        )
    return f"distilled {path}: {count} runs"


def distilled(
    loaded: pd.DataFrame, axes: Sequence[str], layers_of: Path | None = None, kept: Sequence[str] = ()
) -> pd.DataFrame:
    """The record of loaded runs, or that of the layers which runs in the folder `layers_of` kept, with the columns `kept` of
    those that they measured; empty if none did."""
    parts = comparable(loaded, axes)
    if layers_of is None:
        return pd.concat([distill(part, curves=not axes) for part in parts], ignore_index=True)
    frame = pd.concat([_with_layers(at_best(without_baseline(part)), layers_of) for part in parts])
    return frame if frame.empty else _layers_only(frame, axes, kept)


def runs_folder(outputs: Path, experiment: str) -> Path:
    return outputs / "runs" / experiment.removesuffix(LAYERS)


def command(outputs: Path, experiment: str, overrides: str = "") -> str:
    """The command that trains (more) runs of the experiment into these outputs."""
    words = [
        "python -m runner" + " -m" * ("," in overrides or experiment == "scratch"),
        "" if experiment == "scratch" else f"experiment={shlex.quote(experiment)}",
        overrides,
    ]
    if outputs != Path("outputs"):
        words.append(f"outputs={shlex.quote(str(outputs))}")
    return " ".join(filter(None, words))


def size(outputs: Path, experiment: str) -> int:
    """How many runs the experiment's record holds; 0 where there is none that can be read."""
    try:
        return read(outputs, experiment)["run_id"].nunique()
    except MissingRecords:
        return 0


def record_path(outputs: Path, experiment: str) -> Path:
    return outputs / "records" / f"{experiment}.parquet"


def read(outputs: Path, experiment: str) -> pd.DataFrame:
    """The experiment's record as a table. Raises MissingRecords, and DamagedRecord."""
    path, name = record_path(outputs, experiment), experiment.removesuffix(LAYERS)
    if not os.path.lexists(path):
        raise MissingRecords(
            f"no records of {name}; make them with: {command(outputs, name)}" if name == experiment else no_layers(name)
        )
    try:
        frame = load.record(path)
    except load.DamagedTable as error:
        raise DamagedRecord(f"{error}; delete it and make it again with: {command(outputs, name)}") from error
    if name != experiment and os.path.lexists(record_path(outputs, name)):
        if not set(frame["run_id"]) <= set(read(outputs, name)["run_id"]):
            raise DamagedRecord(
                f"{path} is of other runs than {record_path(outputs, name)}; delete it, and train with log.layers=true"
            )
    return frame


def no_layers(experiment: str, chosen: str = "") -> str:
    """`chosen`: words on which of its runs were looked at."""
    return f"no records of the layers of {experiment.removesuffix(LAYERS)}{chosen}; train its runs with log.layers=true"


def distill(frame: pd.DataFrame, curves: bool = True) -> pd.DataFrame:
    """Landmark steps of every run, and thinned curves of the runs at the grid's best learning rate of each init and width.

    Without `curves`: the start alone, up to where both factors have moved, and the end. Early looks at the sharpness are kept.

    A landmark that was not logged is stood in for by the next step that was. Also kept: the last update and the end.

    Measured columns are rounded to 17 bits (5 digits): beyond that they are noise that does not compress.
    """
    runs, step = frame["run_id"], frame["step"]
    last = step.groupby(runs).transform("max")
    last_update = step.where(step < last).groupby(runs).transform("max")
    wanted = LANDMARKS if curves else [landmark for landmark in LANDMARKS if landmark <= BOTH_MOVED]
    landmarks = [step.where(step >= landmark).groupby(runs).transform("min") for landmark in wanted]
    keep = pd.concat([step == kept for kept in (*landmarks, *([last_update] if curves else []), last)], axis=1).any(
        axis=1
    )
    if curves:
        keep |= runs.isin(at_best(frame)["run_id"]) & _on_curve(step)
    if LOOKED in frame:
        keep |= frame[LOOKED].notna() & (step < EARLY)
    return rounded(frame.loc[keep, [name for name in frame.columns if not name.startswith(PLACES)]])


def at_best(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs at the grid's best learning rate of each init and width."""
    grid, best = Grid.of(frame), pd.Series(False, frame.index)
    for init in grid.inits:
        for width in grid.widths:
            lr = grid.best(init, width).grid_lr
            best |= (frame["init.name"] == init) & (frame["task.width"] == width) & (frame["optimizer.lr"] == lr)
    return frame[best]


def _with_layers(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table with a row for each step and layer, and the layer's columns."""
    steps = frame.drop(columns=[name for name in frame.columns if is_measured(name)]).drop_duplicates(
        ["run_id", "step"]
    )
    return steps.merge(load.layers(folder, set(frame["run_id"])), on=["run_id", "step"])


def _layers_only(frame: pd.DataFrame, axes: Sequence[str], kept: Sequence[str]) -> pd.DataFrame:
    """Thinned curves of a few columns, and of the configuration only what tells runs apart, and what they measure."""
    columns = ["run_id", "status", *dict.fromkeys((*AXES, *axes, "adapter.name")), "step", "layer", *kept]
    return rounded(frame.loc[_on_curve(frame["step"]), [name for name in columns if name in frame]])


def _on_curve(step: pd.Series) -> pd.Series:
    return (step <= EARLY) | (step % max(1, math.ceil(step.max() / CURVE_POINTS)) == 0)


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.reset_index(drop=True)
    measured = [name for name in frame.columns if is_measured(name)]
    mantissa, exponent = np.frexp(frame[measured].to_numpy(float))
    frame[measured] = np.ldexp(np.round(mantissa * 2**17) / 2**17, exponent)
    return frame


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers that are like each other beside each other, which takes a tenth off the file."""
    columns = [name for name in ("step", *AXES) if name in frame]
    return frame.sort_values(columns, kind="stable", ignore_index=True)


def _encoding(frame: pd.DataFrame) -> dict[str, Any]:
    """How a file holds measured numbers: byte by byte, of which the last are zeros, which compresses to about half."""
    measured = [name for name in frame.columns if is_measured(name)]
    return {
        "use_dictionary": [name for name in frame.columns if name not in measured],
        "column_encoding": dict.fromkeys(measured, "BYTE_STREAM_SPLIT"),
    }


def _of_one_kind(frame: pd.DataFrame) -> pd.DataFrame:
    """With columns that hold texts and numbers as texts, because a file has one type a column."""
    objects = [name for name in frame.columns if frame[name].dtype == object]
    mixed = [name for name in objects if len({isinstance(value, str) for value in frame[name].dropna().unique()}) > 1]
    return frame.assign(**{name: frame[name].map(where.written, na_action="ignore") for name in mixed})

"""Records: the small, committed distillate of an experiment's runs, from which every figure and claim is rebuilt."""

import math
import shlex
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.grid import AXES, PLACES, Grid, is_setting, split
from analysis.load import is_measured, layers, load, per_run

EARLY = 10  # the theory speaks of a few steps: increments are compared at this step
BOTH_MOVED = 2  # the first step whose Z_A and Z_B see a move of A and of B under either init: A's waits for B's
LAYERS = ".layers"  # ends the name of a record of layers, beside the experiment's own
LAYER_COLUMNS = ["feature/Z_A", "feature/delta_1", "feature/delta_2"]
CHANGES = ["change/magnitude", "change/direction"]  # kept where they were logged
LANDMARKS = (0, 1, BOTH_MOVED, EARLY)  # steps kept for every run, besides the last
CURVE_POINTS = 60  # rows kept of a run at the best learning rate, besides its first EARLY


class MissingRecords(Exception):
    """An experiment has neither runs nor records; the message names the command that makes them."""


def refresh(outputs: Path, experiment: str, axes: Sequence[str] = ()) -> str | None:
    """Distill the experiment's runs, if there are any, into its record; returns a sentence about what was done.

    `axes`: what the sweep varies besides AXES; each part of it is a grid of its own.
    The experiment's name with LAYERS at its end stands for the record of its layers.
    A record is not replaced by one of fewer runs: a quick look at a corner of an experiment must not cost its record.
    """
    folder, path = outputs / "runs" / experiment.removesuffix(LAYERS), record_path(outputs, experiment)
    try:
        loaded = load(folder)
        parts = [balanced(one_setting(part)) for part in split(loaded, axes).values()]
    except FileNotFoundError:
        return None
    if experiment.endswith(LAYERS):
        parts = [_with_layers(at_best(part), folder) for part in parts]
    frame = pd.concat(parts)
    if frame.empty:
        return None
    count, before = frame["run_id"].nunique(), 0
    there = count if experiment.endswith(LAYERS) else loaded["run_id"].nunique()  # of all settings
    with suppress(MissingRecords):
        before = read(outputs, experiment)["run_id"].nunique()
    if there < before:
        return f"kept {path}: it holds {before} runs and {folder} only {there}; delete the record to replace it"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    if experiment.endswith(LAYERS):
        record = _layers_only(frame, axes)
    else:
        record = pd.concat([distill(part, curves=not axes) for part in parts], ignore_index=True)
    record.to_parquet(new, compression="zstd", index=False)
    new.replace(path)
    return f"distilled {path}: {count} runs"


def record_path(outputs: Path, experiment: str) -> Path:
    return outputs / "records" / f"{experiment}.parquet"


def read(outputs: Path, experiment: str) -> pd.DataFrame:
    """The experiment's record as a table. Raises MissingRecords."""
    path = record_path(outputs, experiment)
    where = "" if outputs == Path("outputs") else f" outputs={shlex.quote(str(outputs))}"
    if not path.exists() and experiment.endswith(LAYERS):
        raise MissingRecords(
            f"no records of the layers of {experiment.removesuffix(LAYERS)}; train its runs with log.layers=true"
        )
    if not path.exists():
        raise MissingRecords(
            f"no records of {experiment}; make them with: python -m runner experiment={experiment}{where}"
        )
    try:
        frame = pd.read_parquet(path)
        if frame.empty or not {"run_id", "status", "step", *AXES} <= set(frame.columns):
            raise ValueError("it lacks rows or columns")
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise MissingRecords(
            f"{path} is damaged ({str(error).splitlines()[0]}); delete it and make it again with: "
            f"python -m runner experiment={experiment.removesuffix(LAYERS)}{where}"
        ) from error
    if experiment.endswith(LAYERS):
        main = record_path(outputs, experiment.removesuffix(LAYERS))
        if main.exists() and not set(frame["run_id"]) <= set(pd.read_parquet(main, columns=["run_id"])["run_id"]):
            raise MissingRecords(f"{path} is of other runs than {main}; delete it, and train with log.layers=true")
    return frame


def one_setting(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep runs that differ only along the sweep's axes (init, width, lr, seed), and those of one init in no option of it.

    A folder may also hold trial runs (fewer steps, another rank). Mixing settings would average unlike things: the
    setting with the most runs is kept, with a warning that says what was left out.
    """
    settings = [name for name in per_run(frame).columns if is_setting(name)]
    options = [name for name in settings if name.startswith("init.")]
    frame = _commonest(frame, [name for name in settings if name not in options])
    kept = pd.concat([_commonest(part, options)["run_id"] for _, part in frame.groupby("init.name")])
    return frame[frame["run_id"].isin(kept)]


def _commonest(frame: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """The runs of the setting that most runs have."""
    table = per_run(frame)
    varying = [name for name in settings if table[name].nunique(dropna=False) > 1]
    if not varying:
        return frame
    labels = table[varying].apply(lambda row: ", ".join(f"{name}={value}" for name, value in row.items()), axis=1)
    most = labels.value_counts().idxmax()
    kept = table.loc[labels == most, "run_id"]
    warnings.warn(
        f"runs differ in {', '.join(varying)}: using the {len(kept)} with {most} and leaving out {len(table) - len(kept)}; "
        "keep runs of another setting under another `outputs`",
        stacklevel=3,
    )
    return frame[frame["run_id"].isin(kept)]


def balanced(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep a grid in which every seed has every run: means over different seeds at different rates do not compare.

    Cells (init, width, lr) that fewer than half of the seeds have are left out, then seeds without all other cells; a
    warning says so.
    """
    table = per_run(frame)
    cells = table[[name for name in AXES if name != "seed"]].apply(tuple, axis=1)
    common = cells.map(cells.value_counts()) * 2 >= table["seed"].nunique()
    counts = table.loc[common, "seed"].value_counts()
    complete = counts.index[counts == cells[common].nunique()]
    kept = table.loc[common & table["seed"].isin(complete), "run_id"]
    if len(kept) in (0, len(table)):
        return frame
    warnings.warn(
        f"not every seed has every run: using the {len(kept)} runs of seeds {sorted(complete)} and leaving out "
        f"{len(table) - len(kept)}; train the missing ones to use all",
        stacklevel=2,
    )
    return frame[frame["run_id"].isin(kept)]


def distill(frame: pd.DataFrame, curves: bool = True) -> pd.DataFrame:
    """Landmark steps of every run, and thinned curves of the runs at the grid's best learning rate of each init and width.

    Without `curves`: the start alone, up to where both factors have moved, and the end.

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
    return _rounded(frame.loc[keep, [name for name in frame.columns if not name.startswith(PLACES)]])


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
    return steps.merge(layers(folder, set(frame["run_id"])), on=["run_id", "step"])


def _layers_only(frame: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Thinned curves of a few columns, and of the configuration only what tells runs apart."""
    columns = ["run_id", "status", *dict.fromkeys((*AXES, *axes)), "step", "layer", *LAYER_COLUMNS]
    return _rounded(frame.loc[_on_curve(frame["step"]), [*columns, *(name for name in CHANGES if name in frame)]])


def _on_curve(step: pd.Series) -> pd.Series:
    return (step <= EARLY) | (step % max(1, math.ceil(step.max() / CURVE_POINTS)) == 0)


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.reset_index(drop=True)
    measured = [name for name in frame.columns if is_measured(name)]
    mantissa, exponent = np.frexp(frame[measured].to_numpy(float))
    frame[measured] = np.ldexp(np.round(mantissa * 2**17) / 2**17, exponent)
    return frame

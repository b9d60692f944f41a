"""Sweeps over more than inits as one grid: each init under each change beside the plain one."""

import warnings
from collections.abc import Sequence

import pandas as pd

from analysis.grid import Grid, NotShown
from analysis.scaling import START, features
from analysis.tables.settings import LeftOut
from analysis.theory import PAIR_OPTIMIZERS, REMEDIES

BETWEEN = ", "  # an init and what is changed
CONTROLS = {"init.directions": "directions", "init.norms": "norms"}


def remedies(frame: pd.DataFrame) -> Grid:
    """With `gaussian_A, Riemannian` and the like in the place of inits, and with features; of the seeds that all of them have.
    Raises NotShown where there is no remedy or no such seed, and Mixture. One of several strengths is named with it."""
    names = frame["init.name"].astype(str)
    for field, remedy in REMEDIES.items():
        if field in frame:
            several = field == "adapter.freeze" or frame[field].nunique() > 1
            which = " " + frame[field].astype(str) if several else ""
            names = names.where(frame[field].isna(), names + BETWEEN + remedy + which)
    optimizers = frame["optimizer.name"].map(PAIR_OPTIMIZERS)
    names = names.where(optimizers.isna(), names + BETWEEN + optimizers.fillna(""))
    fields = [*REMEDIES, *(f"optimizer={name}" for name in PAIR_OPTIMIZERS)]
    return _grid(frame, names, "remedies", "remedy", fields)


def controls(frame: pd.DataFrame) -> Grid:
    """With `pissa, random directions` and the like in the place of inits. Raises as `remedies` does."""
    names = frame["init.name"].astype(str)
    for field, what in CONTROLS.items():
        if field in frame:
            changed = frame[field].notna() & (frame[field] != "own")
            names = names.mask(changed, names + BETWEEN + frame[field].astype(str) + " " + what)
    return _grid(frame, names, "magnitude", "control", list(CONTROLS))


def parted(arm: str) -> tuple[str, str]:
    """(init, what is changed) of an arm; nothing is empty."""
    init, _, change = arm.partition(BETWEEN)
    return init, change


def _grid(frame: pd.DataFrame, names: pd.Series, figure: str, change: str, fields: Sequence[str]) -> Grid:
    if not names.str.contains(BETWEEN).any():
        raise NotShown(f"{figure} needs runs with one of {', '.join(fields)}, and there are none")
    seeds = set.intersection(*(set(of) for _, of in frame["seed"].groupby(names)))
    if not seeds:
        raise NotShown(f"{', '.join(names.unique())} have no seed in common; train those that they lack")
    if left := sorted(set(frame["seed"]) - seeds):
        warnings.warn(
            f"not every {change} has seeds {', '.join(map(str, left))}: they are left out", LeftOut, stacklevel=3
        )
    frame = frame.assign(**{"init.name": names})[frame["seed"].isin(seeds)]
    return Grid.of(frame, features(frame).drop(columns=START, errors="ignore"))

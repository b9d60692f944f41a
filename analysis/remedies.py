"""A sweep over remedies as one grid: each of them under each init, and plain LoRA beside it."""

import warnings

import pandas as pd

from analysis.grid import Grid, NotShown
from analysis.scaling import START, features
from analysis.tables.settings import LeftOut
from analysis.theory import PAIR_OPTIMIZERS, REMEDIES

BETWEEN = ", "  # an init and its remedy


def arms(frame: pd.DataFrame) -> Grid:
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
    if not names.str.contains(BETWEEN).any():
        fields = ", ".join([*REMEDIES, *(f"optimizer={name}" for name in PAIR_OPTIMIZERS)])
        raise NotShown(f"remedies needs runs with one of {fields}, and there are none")
    seeds = set.intersection(*(set(of) for _, of in frame["seed"].groupby(names)))
    if not seeds:
        raise NotShown(f"{', '.join(names.unique())} have no seed in common; train those that they lack")
    if left := sorted(set(frame["seed"]) - seeds):
        warnings.warn(
            f"not every remedy has seeds {', '.join(map(str, left))}: they are left out", LeftOut, stacklevel=2
        )
    frame = frame.assign(**{"init.name": names})[frame["seed"].isin(seeds)]
    return Grid.of(frame, features(frame).drop(columns=START, errors="ignore"))


def parted(arm: str) -> tuple[str, str]:
    """(init, remedy) of an arm; no remedy is empty."""
    init, _, remedy = arm.partition(BETWEEN)
    return init, remedy

"""A sweep over remedies as one grid: each of them under each init, and plain LoRA beside it."""

import pandas as pd

from analysis.grid import Grid
from analysis.scaling import START, features

REMEDIES = {"optimizer.riemannian": "Riemannian", "optimizer.shrink": "Stable-LoRA", "adapter.freeze": "frozen"}
BETWEEN = ", "  # an init and its remedy


def arms(frame: pd.DataFrame) -> Grid:
    """With `gaussian_A, Riemannian` and the like in the place of inits, and with features. Raises Mixture."""
    names = frame["init.name"].astype(str)
    for field, remedy in REMEDIES.items():
        if field in frame:
            values = frame[field]
            names = names.where(values.isna(), names + BETWEEN + remedy + _which(field, values))
    return Grid.of(frame.assign(**{"init.name": names}), features(frame).drop(columns=START, errors="ignore"))


def _which(field: str, values: pd.Series) -> pd.Series | str:
    """What a frozen factor is called."""
    return " " + values.astype(str) if field == "adapter.freeze" else ""


def parted(arm: str) -> tuple[str, str]:
    """(init, remedy) of an arm; no remedy is empty."""
    init, _, remedy = arm.partition(BETWEEN)
    return init, remedy

"""How far the lengths and the directions of weights' rows have moved, layer by layer (Liu et al. 2024, DoRA)."""

import numpy as np
import pandas as pd

from analysis.scaling import PerSeed

QUARTERS = 4
NAMES = {"lora": "LoRA", "dora": "DoRA"}


def quarters(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of LoRA and DoRA at the ends of the quarters of training, or at the logged step before."""
    frame = frame[frame["adapter.name"].isin(NAMES) & frame["change/direction"].notna()]
    steps = np.sort(frame["step"].unique())
    ends = [steps[steps <= steps[-1] * (i + 1) / QUARTERS][-1] for i in range(QUARTERS)] if len(steps) else []
    return frame[frame["step"].isin([end for end in ends if end > 0])]


def correlations(points: pd.DataFrame) -> PerSeed:
    """Of each seed, over its layers and quarters: Pearson's between the two changes."""
    found = [of_seed["change/direction"].corr(of_seed["change/magnitude"]) for _, of_seed in points.groupby("seed")]
    return PerSeed(np.array(found))

"""How far the lengths and the directions of weights' rows have moved, layer by layer (Liu et al. 2024, DoRA)."""

import pandas as pd

from analysis.scaling import PerSeed

QUARTERS = 4
NAMES = {"lora": "LoRA", "dora": "DoRA"}


def quarters(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of LoRA and DoRA at the ends of the quarters of training, or at the logged step before, if there is one."""
    frame = frame[frame["adapter.name"].isin(NAMES) & frame["change/direction"].notna()]
    steps = frame["step"].to_numpy(int)
    ends = [steps[steps <= steps.max(initial=0) * (i + 1) / QUARTERS].max(initial=0) for i in range(QUARTERS)]
    return frame[frame["step"].isin([end for end in ends if end > 0])]


def correlations(points: pd.DataFrame, within: bool = False) -> PerSeed:
    """Of each seed, over its layers and quarters: Pearson's between the two changes. Both grow while one trains, which alone
    makes them go together; `within`: over the layers of a quarter, the mean of the quarters."""
    parts = points.groupby(["seed", "step"] if within else ["seed"])
    found = parts[["change/direction", "change/magnitude"]].apply(lambda part: part.corr().iloc[0, 1])
    return PerSeed(found.groupby("seed").mean().to_numpy())

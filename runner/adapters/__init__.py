"""Stacked adapters: functions of an adapted layer's input and its frozen output, for K runs at once.

x (…, n_in)  ──►  W0 ──►  y0 (…, n_out)  ─────┐
             └──►  inner ──►  outer  ─────────+──►  · gain  ──►  y (…, n_out)

`lora` and `rslora` train the two factors, which their scales alone tell apart; `dora` trains a gain per output beside
them; `vera` trains a diagonal behind each of two frozen factors. `Dense` is a head that is trained in full.
"""

import math
from collections.abc import Callable

from runner.adapters.dora import DoRA
from runner.adapters.stacked import Adapter, Dense, Factored, LoRA
from runner.adapters.vera import VeRA

__all__ = ["ADAPTERS", "SCALES", "Adapter", "Dense", "DoRA", "Factored", "LoRA", "VeRA"]

ADAPTERS: dict[str, type[Factored]] = {"lora": LoRA, "rslora": LoRA, "dora": DoRA, "vera": VeRA}
# s of alpha and r: Hu et al. 2021; Kalajdzievski 2023 (arXiv 2312.03732), whose product keeps its size as r grows.
SCALES: dict[str, Callable[[float, int], float]] = {
    "lora": lambda alpha, rank: alpha / rank,
    "rslora": lambda alpha, rank: alpha / math.sqrt(rank),
    "dora": lambda alpha, rank: alpha / rank,
}

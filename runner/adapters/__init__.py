"""Stacked adapters. In: an adapted layer's input and its frozen output, for K runs at once. Out: the adapted output.

x (…, n_in)  ──►  W0 ──►  y0 (…, n_out)  ─────┐
             └──►  inner ──►  outer  ─────────+──►  · gain  ──►  y (…, n_out)

`lora` and `rslora` train the two factors, which their scales alone tell apart; `dora` trains a gain per output beside
them; `vera` trains a diagonal behind each of two frozen factors. `full` trains a weight in the place of W0, and so is a head.
"""

from runner.adapters.base import Adapter
from runner.adapters.dora import DoRA
from runner.adapters.factored import Factored
from runner.adapters.full import Full
from runner.adapters.lora import LoRA, RsLoRA
from runner.adapters.vera import VeRA

__all__ = ["Adapter", "DoRA", "Factored", "Full", "LoRA", "RsLoRA", "VeRA"]

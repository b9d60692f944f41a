"""Held-out loss of finetuned language models against learning rate, a panel a width, beside the loss of the frozen model."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import _caption, _sensitivity
from analysis.figures._needs import TWO_RATES
from analysis.grid import held_out

RECORDS = ("lm_lr_sensitivity",)
NEEDS = (TWO_RATES,)
BASELINE = True


def figure(frame: pd.DataFrame) -> Figure:
    return _sensitivity.panels(held_out(frame), "final held-out loss (nats)", _sensitivity.frozen(frame))


def caption(frame: pd.DataFrame) -> str:
    return _caption.lines(*_sensitivity.message(held_out(frame), nats=True), *_sensitivity.explained(frame, nats=True))

"""Final loss against learning rate, a panel a width, with each init's best rate; diverged runs stand at the top edge."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import _caption, _sensitivity
from analysis.figures._needs import TWO_RATES

RECORDS = ("lr_vs_width",)
NEEDS = (TWO_RATES,)
BASELINE = True


def figure(frame: pd.DataFrame) -> Figure:
    return _sensitivity.panels(frame, "final training loss")


def caption(frame: pd.DataFrame) -> str:
    return _caption.lines(*_sensitivity.message(frame, nats=False), *_sensitivity.explained(frame, nats=False))

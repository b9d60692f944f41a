"""Final loss against learning rate, a panel a width; diverged runs stand at the top edge."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import _sensitivity

RECORDS = ("lr_vs_width",)


def figure(frame: pd.DataFrame) -> Figure:
    fig, axes, _ = _sensitivity.panels(frame, "final training loss")
    _sensitivity.legend(fig, axes)
    return fig

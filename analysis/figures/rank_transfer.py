"""Best learning rate against rank, a panel a way to scale the product, beside the exponents that muA predicts.

Ranks that learn little, or whose best rate lies at the grid's edge, are drawn hollow and not fitted.
"""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style, theory
from analysis.figures._scaling import against_width, not_fitted
from analysis.scaling import learning_lrs, rank_grids

RECORDS = ("rank_transfer",)
AXES = ("adapter.name", "adapter.rank", "adapter.alpha")
LABELS = {0.0: "$s = 1$", -0.5: "$s = r^{-1/2}$", -1.0: "$s = r^{-1}$"}


def figure(frame: pd.DataFrame) -> Figure:
    grids = rank_grids(frame)
    fig, [axes] = style.subplots(1, len(grids), height=2.6, sharey=True)
    for panel, (power, grid) in zip(axes, grids.items(), strict=True):
        predicted = {init: theory.RANK_POWERS.get((theory.FAMILY.get(init), power)) for init in grid.inits}
        against_width(panel, grid, predicted, learning_lrs, symbol="r", axis="rank")
        not_fitted(panel, grid, learning_lrs)
        panel.set_title(LABELS[power])
    style.few_ticks(axes[0].yaxis, 1.5)
    axes[0].set_ylabel("best learning rate")
    first = next(iter(grids.values()))
    fig.suptitle(
        f"{frame['task.name'].iloc[0]}, n = {frame['task.width'].iloc[0]}, {len(first.seeds)} seeds, 95% intervals\n"
        "hollow: less than a tenth of the loss is learned, or the best lr is at the grid's edge",
        fontsize=8,
    )
    return fig

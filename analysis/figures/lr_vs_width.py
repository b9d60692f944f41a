"""Best learning rate against width, and the loss there: fitted exponents with intervals beside the predicted ones."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.figures import _caption
from analysis.figures._message import best_losses, trends
from analysis.figures._needs import OFF_THE_EDGE, TWO_WIDTHS
from analysis.figures._scaling import against_width, not_fitted
from analysis.grid import Grid, loss_name
from analysis.scaling import best_lrs
from analysis.theory import exponents, setting

RECORDS = ("lr_vs_width",)
NEEDS = (TWO_WIDTHS, OFF_THE_EDGE)


def figure(frame: pd.DataFrame) -> Figure:
    grid = Grid.of(frame)
    fig, [[rate, loss]] = style.subplots(1, 2, height=3.1, width=0.95)
    against_width(rate, grid, exponents(setting(frame), grid.inits, "lr"), best_lrs)
    not_fitted(rate, grid, best_lrs, " (at the grid's edge)")
    rate.set_ylabel("best learning rate")
    against_width(loss, grid, {}, best_losses)
    loss.set_ylabel(f"final {loss_name(frame)}")
    entries = max(len(panel.get_legend().get_texts()) for panel in (rate, loss))
    fig.set_figheight(fig.get_figheight() + style.legend_room(entries, free=4))
    style.heading(fig, _caption.short(frame, _caption.short_bars(frame)))
    return fig


def caption(frame: pd.DataFrame) -> str:
    grid = Grid.of(frame)
    theory = "dotted ones have the predicted exponents" if setting(frame) else "there is no prediction for this task"
    return _caption.lines(
        trends(grid, best_lrs, "the best learning rate"),
        trends(grid, best_losses, f"the final {loss_name(frame)} there"),
        f"Solid and dashed lines are fits, and {theory}; best rates at the grid's edge are hollow and not fitted.",
        _caption.runs(frame),
        _caption.bars(frame),
    )

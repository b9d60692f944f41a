"""Small grids that are written out by hand."""

import numpy as np

from analysis.grid import Grid


def grid_of(losses, widths=(1,), columns=None, lrs=None):
    """Log losses of (init, width, lr, seed), at the rates 1, 2, 4, … where none are given."""
    losses = np.array(losses, float)
    names = [f"{i}" for i in range(len(losses))]
    lrs = 2.0 ** np.arange(losses.shape[2]) if lrs is None else np.array(lrs)
    return Grid(names, np.array(widths), lrs, np.arange(losses.shape[3]), losses, columns or {})


def curve(*logs, seeds=1):
    """Of one width, alike for all seeds."""
    return np.repeat(np.array(logs, float)[None, :, None], seeds, axis=2)

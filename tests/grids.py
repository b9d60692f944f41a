"""Small grids that are written out by hand."""

import numpy as np

from analysis.grid import Grid


def grid_of(losses, widths=(1,), columns=None):
    """Log losses of (init, width, lr, seed), at the rates 1, 2, 4, …"""
    losses = np.array(losses, float)
    names = [f"{i}" for i in range(len(losses))]
    axes = names, np.array(widths), 2.0 ** np.arange(losses.shape[2]), np.arange(losses.shape[3])
    return Grid(*axes, losses, columns or {})


def curve(*logs, seeds=1):
    """Of one width, alike for all seeds."""
    return np.repeat(np.array(logs, float)[None, :, None], seeds, axis=2)

"""Values between the points of a grid."""

import numpy as np

ROUNDING = 1e-9  # two logs of one learning rate, along two ways of computing it, differ by less, and those of two rates by more


def interpolated(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    """The ordinate at `x` of the line through the points beside it; at a point, to ROUNDING, that point's own.

    nan where there is none: `x` is nan or outside, or one of the ordinates that it takes is not finite. (np.interp answers
    nan with the value of an only point, and a point's neighbour may lack a value while the point has one.)
    """
    if np.isnan(x):
        return np.nan
    at = np.flatnonzero(np.abs(xs - x) < ROUNDING)
    y = ys[at[0]] if len(at) else np.interp(x, xs, ys, left=np.nan, right=np.nan)
    return float(y) if np.isfinite(y) else np.nan


def vertex(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """exp of the abscissa where the parabola through three points (…, 3) is lowest, the middle point being the lowest.

    Where there is no parabola, as a point is not finite or all are equal, that of the middle point.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        (left, right), (before, after) = np.moveaxis(np.diff(y) / np.diff(x), -1, 0), np.moveaxis(np.diff(x), -1, 0)
        slope_at_middle = (left * after + right * before) / (before + after)
        curvature = 2 * (right - left) / (before + after)
        moved = slope_at_middle / curvature
    return np.exp(x[..., 1] - np.where(np.isfinite(y).all(-1) & (right > left), moved, 0.0))

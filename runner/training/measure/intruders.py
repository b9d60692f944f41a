"""Intruder dimensions: directions that a trained weight writes most, and that its pretrained weight has no direction like."""

import numpy as np
import torch
from torch import Tensor

from runner.adapters import Factored

COLUMN = "spectrum/intruders"
TOP, BELOW = 10, 0.5  # as in PEFT


@torch.no_grad()
def intruders(adapter: Factored, W0: Tensor) -> Tensor:
    """(K,) how many of the TOP left singular vectors of each run's weight have a cosine below BELOW, in magnitude, with each left
    singular vector of W0 (n_out, n_in): the intruder dimensions of Shuttleworth et al. 2024 (arXiv 2410.21228), as PEFT's
    `reduce_intruder_dimension` counts LoRA's (of DoRA it leaves the lengths out). nan where W0 is zero and has no directions.

    In float64. W0 is decomposed once for the runs of a stack; of each run's weight, which is W0 + outer·inner with rows scaled by
    DoRA, products with vectors are enough. Of vectors with one singular value any rotation is as good: there the count is
    arbitrary.
    """
    parameters = [*adapter.parameters.values()]
    inner, outer = adapter.factors(parameters)
    gain = adapter.gain(inner, outer, parameters)
    W0 = W0.double().cpu()
    if not W0.any():
        return torch.full((len(inner),), torch.nan, dtype=torch.float64)
    U = torch.linalg.svd(W0, full_matrices=False)[0].numpy()
    gains = [None] * len(inner) if gain is None else gain.double().cpu().numpy()
    factors = zip(outer.double().cpu().numpy(), inner.double().cpu().numpy(), gains, strict=True)
    cosines = [np.abs(U.T @ _top(W0.numpy(), *own)).max(0) for own in factors]
    return torch.tensor([float((of < BELOW).sum()) for of in cosines], dtype=torch.float64)


def _top(W0: np.ndarray, outer: np.ndarray, inner: np.ndarray, gain: np.ndarray | None) -> np.ndarray:
    """(n_out, TOP) left singular vectors of diag(gain)·(W0 + outer·inner), of the largest singular values."""
    rows = np.ones(len(W0)) if gain is None else gain
    if min(W0.shape) <= 2 * TOP:  # Lanczos needs more
        return np.linalg.svd(rows[:, None] * (W0 + outer @ inner), full_matrices=False)[0][:, :TOP]
    from scipy.sparse.linalg import LinearOperator, svds  # it takes a while, and few runs need it

    def times(x: np.ndarray) -> np.ndarray:
        return (rows * (W0 @ x + outer @ (inner @ x)).T).T

    def transposed(y: np.ndarray) -> np.ndarray:
        scaled = (rows * y.T).T
        return W0.T @ scaled + inner.T @ (outer.T @ scaled)

    weight = LinearOperator(
        W0.shape, matvec=times, rmatvec=transposed, matmat=times, rmatmat=transposed, dtype=np.float64
    )
    start = np.random.default_rng(0).standard_normal(min(W0.shape))
    return svds(weight, k=TOP, v0=start, return_singular_vectors="u")[0]

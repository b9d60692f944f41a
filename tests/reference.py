"""The obvious, slow form of what `runner` computes fast: explicit weights, explicit loops, one run at a time."""

import torch
from torch import Tensor


def size(vectors: Tensor) -> float:
    """Rows are one feature vector per probe input: mean over inputs of the root mean square of the coordinates."""
    return torch.stack([v.square().mean().sqrt() for v in vectors]).mean().item()


def state(A: Tensor, B: Tensor, s: float, Z: Tensor) -> dict[str, float]:
    """Metrics of one run's factors A (r, n_in), B (n_out, r) on probe Z (P, n_in), through the explicit s·B·A."""
    W = s * B @ A
    singular_values = torch.linalg.svdvals(W)
    return {
        "param/A": A.norm().item(),
        "param/B": B.norm().item(),
        "feature/Z_A": size(Z @ A.T),
        "feature/Z_B": size(Z @ W.T),
        "weight/fro": W.norm().item(),
        "weight/spectral": singular_values[0].item(),
        "weight/stable_rank": (W.norm() / singular_values[0]).square().item(),
        "balance": (B.T @ B - A @ A.T).norm().item(),
    }


def increments(A: Tensor, B: Tensor, dA: Tensor, dB: Tensor, s: float, Z: Tensor) -> dict[str, float]:
    """The three increments of Z_B and its actual change, each as explicit vectors (P, n_out)."""
    before, after = s * Z @ A.T @ B.T, s * Z @ (A + dA).T @ (B + dB).T
    return {
        "update/A": dA.norm().item(),
        "update/B": dB.norm().item(),
        "feature/delta_1": size(s * Z @ dA.T @ B.T),
        "feature/delta_2": size(s * Z @ A.T @ dB.T),
        "feature/delta_3": size(s * Z @ dA.T @ dB.T),
        "feature/dZ_B": size(after - before),
    }

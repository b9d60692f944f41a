"""The obvious, slow form of what `runner` computes fast: explicit weights, explicit loops, one run at a time."""

from types import SimpleNamespace

import torch
from torch import Tensor


def size(vectors: Tensor) -> float:
    """Rows are one feature vector per probe input: mean over inputs of the root mean square of the coordinates."""
    return torch.stack([v.square().mean().sqrt() for v in vectors]).mean().item()


# Column -> its definition, of one run: factors A (r, n_in), B (n_out, r) before an update, their gradients, the update dA, dB,
# the scale s, the probe Z (P, n_in) and the frozen W0; W = s·B·A and W_new, after the update, are explicit.
COLUMNS = {
    "grad/A": lambda run: run.grad_A.norm().item(),
    "grad/B": lambda run: run.grad_B.norm().item(),
    "param/A": lambda run: run.A.norm().item(),
    "param/B": lambda run: run.B.norm().item(),
    "feature/Z_A": lambda run: size(run.Z @ run.A.T),
    "feature/Z_B": lambda run: size(run.Z @ run.W.T),
    "weight/fro": lambda run: run.W.norm().item(),
    "weight/spectral": lambda run: torch.linalg.svdvals(run.W)[0].item(),
    "weight/stable_rank": lambda run: (run.W.norm() / torch.linalg.svdvals(run.W)[0]).square().item(),
    "balance": lambda run: (run.B.T @ run.B - run.A @ run.A.T).norm().item(),
    "update/A": lambda run: run.dA.norm().item(),
    "update/B": lambda run: run.dB.norm().item(),
    "feature/delta_1": lambda run: size(run.s * run.Z @ run.dA.T @ run.B.T),
    "feature/delta_2": lambda run: size(run.s * run.Z @ run.A.T @ run.dB.T),
    "feature/delta_3": lambda run: size(run.s * run.Z @ run.dA.T @ run.dB.T),
    "feature/dZ_B": lambda run: size(run.Z @ (run.W_new - run.W).T),
    "feature/Z": lambda run: size(run.Z),
    "feature/Y0": lambda run: size(run.Z @ run.W0.T),
}


def columns(
    A: Tensor, B: Tensor, dA: Tensor, dB: Tensor, s: float, Z: Tensor, W0: Tensor, gradients: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Every column of one run."""
    run = SimpleNamespace(A=A, B=B, dA=dA, dB=dB, s=s, Z=Z, W0=W0, grad_A=gradients[0], grad_B=gradients[1])
    run.W, run.W_new = s * B @ A, s * (B + dB) @ (A + dA)
    return {name: definition(run) for name, definition in COLUMNS.items()}

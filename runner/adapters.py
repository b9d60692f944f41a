"""Stacked adapters: functions of an adapted layer's input and its frozen output, for K runs at once.

x (…, n_in)  ──►  W0 ──►  y0 (…, n_out)  ──┐
             └──►  A ──►  B ──► ·s  ───────+──►  y (K, …, n_out)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class LoRA:
    """y = y0 + s·B·A·x, s = alpha / r (Hu et al. 2021), for K runs.

    A (K, r, n_in), B (K, n_out, r), scale (K,). `parameters` holds what trains, under the side it is on: "A" for the
    inner factor and "B" for the outer one, which is what `optimizer.lr_ratio` tells apart.
    """

    def __init__(self, A: Tensor, B: Tensor, scale: Tensor):
        self.A = A.requires_grad_()
        self.B = B.requires_grad_()
        self.scale = scale

    @classmethod
    def stack(
        cls, factors: Sequence[tuple[Tensor, Tensor]], alpha: Sequence[float], device: torch.device, dtype: torch.dtype
    ) -> "LoRA":
        """K runs from K drawn pairs (A (r, n_in), B (n_out, r)) and their alphas."""
        A, B = (torch.stack(tensors).to(device, dtype) for tensors in zip(*factors, strict=True))
        return cls(A, B, torch.tensor(alpha, dtype=dtype, device=device) / A.shape[1])

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def __call__(self, x: Tensor, y0: Tensor) -> Tensor:
        """(N, n_in), (N, n_out), both shared by all runs -> (K, N, n_out)."""
        runs, rank, _ = self.A.shape
        # x is the same for every run, so all K·r rows of A meet it in one matrix product.
        Z_A = (x @ self.A.flatten(0, 1).T).view(-1, runs, rank).transpose(0, 1)
        return AddProduct.apply(y0, Z_A * self.scale[:, None, None], self.B)


class AddProduct(torch.autograd.Function):
    """y0 + Z·Bᵀ for Z (K, N, r), B (K, n, r) and y0 (N, n), which all runs share.

    What autograd would do by itself, but for the order of the factors in the two products that meet the gradient (K, N, n)
    on their way back: with the thin factor first, the library reads it in order and is 4 to 8 times as fast.
    """

    @staticmethod
    def forward(ctx: Any, y0: Tensor, Z: Tensor, B: Tensor) -> Tensor:
        ctx.save_for_backward(Z, B)
        return torch.baddbmm(y0.expand(len(Z), *y0.shape), Z, B.mT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        Z, B = ctx.saved_tensors
        grad_y0 = grad.sum(0) if ctx.needs_input_grad[0] else None
        return grad_y0, (B.mT @ grad.mT).mT, (Z.mT @ grad).mT


ADAPTERS = {"lora": LoRA}

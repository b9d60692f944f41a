"""The products of a step, with their gradients written by hand: what is as large as a layer's output is touched as rarely as
can be. Z (K, N, q) = inner·x, outer (K, n, q), gain (K, n).

Autograd would do the same, but for the order of the factors in the two products that meet the gradient (K, N, n) on their
way back: with the thin factor first, the library reads it in order and is 4 to 8 times as fast.
"""

from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2**17  # numbers of a product that is only summed: they stay in the cache


class AddProduct(torch.autograd.Function):
    """y0 + Z·outerᵀ for y0 (N, n), which all runs share."""

    @staticmethod
    def forward(ctx: Any, y0: Tensor, Z: Tensor, outer: Tensor) -> Tensor:
        ctx.save_for_backward(Z, outer)
        return torch.baddbmm(y0.expand(len(Z), *y0.shape), Z, outer.mT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        Z, outer = ctx.saved_tensors
        grad_y0 = grad.sum(0) if ctx.needs_input_grad[0] else None
        return grad_y0, (outer.mT @ grad.mT).mT, (Z.mT @ grad).mT


class GainProduct(torch.autograd.Function):
    """y0 + (gain - 1)∘u + gain∘(Z·outerᵀ) for y0, u (N, n), which all runs share."""

    @staticmethod
    def forward(ctx: Any, y0: Tensor, u: Tensor, Z: Tensor, outer: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(u, Z, outer, gain)
        y = torch.addcmul(y0, u, (gain - 1)[:, None])
        return y.baddbmm_(Z, (outer * gain[:, :, None]).mT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, Z, outer, gain = ctx.saved_tensors
        product = (Z.mT @ grad).mT
        grad_gain = _columns(grad, u) + (product * outer).sum(2)
        grad_Z = ((outer * gain[:, :, None]).mT @ grad.mT).mT
        return None, None, grad_Z, product * gain[:, :, None], grad_gain


class AddFolded(torch.autograd.Function):
    """y0 + outer·inner·x in the memory of y0, for K runs folded into the first dimension of x and y0.

    A base of lower precision meets the factors in theirs.
    """

    @staticmethod
    def forward(ctx: Any, y0: Tensor, x: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        Z = inner @ _unfolded(x, inner, 2).mT  # (K, q, N)
        y = y0.view(len(outer), -1, outer.shape[1])
        if y.dtype == outer.dtype:
            y.baddbmm_(Z.mT, outer.mT)
        else:
            y.add_(Z.mT @ outer.mT)
        ctx.save_for_backward(x, Z, inner, outer)
        ctx.mark_dirty(y0)
        return y0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, Z, inner, outer = ctx.saved_tensors
        g = _unfolded(grad, outer, 1)
        g_Z = outer.mT @ g.mT
        grad_x = (g_Z.mT @ inner).view(x.shape).to(x.dtype) if ctx.needs_input_grad[1] else None
        return grad, grad_x, g_Z @ _unfolded(x, inner, 2), (Z @ g).mT


class GainFolded(torch.autograd.Function):
    """added + gain∘(y0 - added + outer·inner·x) for folded runs; `added` (n,) or None."""

    @staticmethod
    def forward(
        ctx: Any, y0: Tensor, x: Tensor, inner: Tensor, outer: Tensor, gain: Tensor, added: Tensor | None
    ) -> Tensor:
        Z = inner @ _unfolded(x, inner, 2).mT
        y = _unfolded(y0, outer, 1) * gain[:, None]
        if added is not None:
            y.add_(((1 - gain) * added)[:, None])
        y.baddbmm_(Z.mT, (outer * gain[:, :, None]).mT)
        ctx.save_for_backward(y0, x, Z, inner, outer, gain, added)
        return y.view(y0.shape).to(y0.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y0, x, Z, inner, outer, gain, added = ctx.saved_tensors
        g = _unfolded(grad, outer, 1)
        product = (Z @ g).mT
        grad_gain = _columns(g, _unfolded(y0, outer, 1)) + (product * outer).sum(2)
        if added is not None:
            grad_gain -= g.sum(1) * added
        g_Z = (outer * gain[:, :, None]).mT @ g.mT
        grad_x = (g_Z.mT @ inner).view(x.shape).to(x.dtype) if ctx.needs_input_grad[1] else None
        grad_y0 = (g * gain[:, None]).view(y0.shape).to(y0.dtype) if ctx.needs_input_grad[0] else None
        return grad_y0, grad_x, g_Z @ _unfolded(x, inner, 2), product * gain[:, :, None], grad_gain, None


def _unfolded(x: Tensor, factor: Tensor, side: int) -> Tensor:
    """(K·b, …, n) -> (K, N, n), in the precision of the factor, whose dimension `side` is n."""
    return x.reshape(len(factor), -1, factor.shape[side]).to(factor.dtype)


def _columns(a: Tensor, b: Tensor) -> Tensor:
    """Σ over N of a∘b: (K, N, n) and (N, n) or (K, N, n) -> (K, n), a few of the N at a time, so that each is read once."""
    at_once = max(1, AT_ONCE // (a.shape[0] * a.shape[2]))
    first, *parts = zip(a.split(at_once, 1), b.expand_as(a).split(at_once, 1), strict=True)
    total = first[0] * first[1]
    for x, y in parts:
        total[:, : x.shape[1]].addcmul_(x, y)
    return total.sum(1)

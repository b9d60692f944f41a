"""What is measured of a layer at every logged step, for K runs at once: one function a column, each a formula of an `Update`.

Every result is (K,). A feature's *size* is the root mean square of its coordinates, averaged over the P probe inputs, so that
exponents in the width can be read off directly. Nothing of size n_out × n_in or K × P × n_out is formed: with the Gram matrix
G = BᵀB (r × r), ‖s·B·v‖² = s²·vᵀGv. Everything is float64, because Gram matrices square the condition number; the factors are
small, so this costs little.

The functions run on any device. On the CPU, `compiled` gives the same numbers for the columns that it knows, faster, and to
a run the same bits in every stack.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SQUARINGS = 40  # a norm of M^p and λ^p differ by a factor, of which the root of order p = 2^40 stays


@dataclass(frozen=True)
class Update:
    """K runs of a layer around one update, float64: A (K, r, n_in) and B (K, n_out, r) before it, their gradients, what it adds
    to them, scale (K,), and the probe Z (1, P, n_in). Of L layers of a shape K counts the runs of the first, then those of the
    second, and so on, and Z is (L, P, n_in)."""

    A: Tensor
    B: Tensor
    grad_A: Tensor
    grad_B: Tensor
    dA: Tensor
    dB: Tensor
    scale: Tensor
    Z: Tensor

    @cached_property
    def Z_A(self) -> Tensor:
        """A·Z (K, r, P)."""
        return self.on_probe(self.A)

    @cached_property
    def dZ_A(self) -> Tensor:
        """ΔA·Z (K, r, P)."""
        return self.on_probe(self.dA)

    @cached_property
    def gram_A(self) -> Tensor:
        """AAᵀ (K, r, r)."""
        return self.A @ self.A.mT

    @cached_property
    def gram(self) -> Tensor:
        """[B, ΔB]ᵀ[B, ΔB] (K, 2r, 2r): all increments, and their sum, are products of [B, ΔB] with a 2r-vector."""
        both = torch.cat([self.B, self.dB], dim=2)
        return both.mT @ both

    @property
    def gram_B(self) -> Tensor:
        """BᵀB (K, r, r)."""
        rank = self.B.shape[2]
        return self.gram[:, :rank, :rank]

    @property
    def gram_dB(self) -> Tensor:
        """ΔBᵀΔB (K, r, r)."""
        rank = self.B.shape[2]
        return self.gram[:, rank:, rank:]

    @cached_property
    def spectral(self) -> Tensor:
        """‖s·B·A‖₂ (K,); σ(B·A)² are the eigenvalues of AAᵀ·BᵀB."""
        return self.scale * largest_eigenvalue(self.gram_A @ self.gram_B).sqrt()

    def on_probe(self, A: Tensor) -> Tensor:
        """A (K, r, n_in) times Z (K, r, P)."""
        return (A.reshape(len(self.Z), -1, A.shape[2]) @ self.Z.mT).view(*A.shape[:2], -1)

    def output_size(self, gram: Tensor, v: Tensor) -> Tensor:
        """Size of s·X·v for XᵀX = gram (K, q, q), X (K, n_out, q), and v (K, q, P)."""
        return size(quadratic(gram, v), self.B.shape[1], self.scale)


@dataclass(frozen=True)
class Metric:
    """`increment`: it says what an update did, rather than where a run was."""

    measure: Callable[[Update], Tensor]
    increment: bool = False


METRICS: dict[str, Metric] = {}


def metric(column: str, increment: bool = False) -> Callable[[Callable[[Update], Tensor]], Callable[[Update], Tensor]]:
    """Measure the function at every logged step, as this column. For VeRA, A and B in its name become d and b."""

    def declare(measure: Callable[[Update], Tensor]) -> Callable[[Update], Tensor]:
        METRICS[column] = Metric(measure, increment)
        return measure

    return declare


def is_increment(column: str) -> bool:
    """Whether it says what an update did; also of the columns that are not of METRICS."""
    return column.startswith("update/") or column.endswith("_step") or (column in METRICS and METRICS[column].increment)


@metric("grad/A")
def grad_A(u: Update) -> Tensor:
    """‖∂L/∂A‖_F"""
    return norm(u.grad_A)


@metric("grad/B")
def grad_B(u: Update) -> Tensor:
    """‖∂L/∂B‖_F"""
    return norm(u.grad_B)


@metric("param/A")
def param_A(u: Update) -> Tensor:
    """‖A‖_F"""
    return norm(u.A)


@metric("param/B")
def param_B(u: Update) -> Tensor:
    """‖B‖_F"""
    return norm(u.B)


@metric("feature/Z_A")
def feature_Z_A(u: Update) -> Tensor:
    """Size of A·Z."""
    return size(u.Z_A.square().sum(1), u.A.shape[1])


@metric("feature/Z_B")
def feature_Z_B(u: Update) -> Tensor:
    """Size of s·B·A·Z."""
    return u.output_size(u.gram_B, u.Z_A)


@metric("weight/fro")
def weight_fro(u: Update) -> Tensor:
    """‖s·B·A‖_F"""
    return u.scale * (u.gram_A * u.gram_B).sum((1, 2)).clamp_min(0).sqrt()


@metric("weight/spectral")
def weight_spectral(u: Update) -> Tensor:
    """‖s·B·A‖₂"""
    return u.spectral


@metric("weight/stable_rank")
def weight_stable_rank(u: Update) -> Tensor:
    """‖s·B·A‖_F² / ‖s·B·A‖₂²; not defined (nan) while B·A = 0."""
    return (weight_fro(u) / u.spectral).square()


@metric("balance")
def balance(u: Update) -> Tensor:
    """‖BᵀB - AAᵀ‖_F, constant under gradient flow."""
    return norm(u.gram_B - u.gram_A)


@metric("update/A", increment=True)
def update_A(u: Update) -> Tensor:
    """‖ΔA‖_F"""
    return norm(u.dA)


@metric("update/B", increment=True)
def update_B(u: Update) -> Tensor:
    """‖ΔB‖_F"""
    return norm(u.dB)


@metric("feature/delta_1", increment=True)
def delta_1(u: Update) -> Tensor:
    """Size of s·B·ΔA·Z: only A moves (Hayou, Ghosh, Yu 2024, LoRA+)."""
    return u.output_size(u.gram_B, u.dZ_A)


@metric("feature/delta_2", increment=True)
def delta_2(u: Update) -> Tensor:
    """Size of s·ΔB·A·Z: only B moves."""
    return u.output_size(u.gram_dB, u.Z_A)


@metric("feature/delta_3", increment=True)
def delta_3(u: Update) -> Tensor:
    """Size of s·ΔB·ΔA·Z: both move."""
    return u.output_size(u.gram_dB, u.dZ_A)


@metric("feature/dZ_B", increment=True)
def dZ_B(u: Update) -> Tensor:
    """Size of the sum of the three, the change of Z_B on the same Z."""
    return u.output_size(u.gram, torch.cat([u.dZ_A, u.Z_A + u.dZ_A], dim=1))


def norm(x: Tensor) -> Tensor:
    return x.double().flatten(1).norm(dim=1)


def quadratic(gram: Tensor, v: Tensor) -> Tensor:
    """vᵀGv for every column of v: (K, q, q), (K, q, P) -> (K, P). Rounding may leave a zero slightly negative."""
    return (v * (gram @ v)).sum(1).clamp_min(0)


def size(squared_norms: Tensor, coordinates: int, scale: Tensor | None = None) -> Tensor:
    """Mean over the probe of s·‖·‖/√coordinates: (K, P) -> (K,)."""
    mean = (squared_norms / coordinates).sqrt().mean(1)
    return mean if scale is None else scale * mean


def largest_eigenvalue(M: Tensor) -> Tensor:
    """Of matrices (…, q, q) with real eigenvalues that are not negative: (…,); nan where one is not finite.

    λ = lim ‖M^p‖^(1/p), by SQUARINGS squarings of M, each divided by its largest entry: p = 2^SQUARINGS. What a squaring rounds
    is divided by the power that it stands for. Nothing of it waits for the device, as libraries' decompositions do. The largest
    of AAᵀ·BᵀB has few digits where ‖B·A‖ is below 10^-6 of ‖B‖·‖A‖.
    """
    exponent = M.new_zeros(M.shape[:-2])
    for i in range(SQUARINGS):
        largest = M.abs().amax((-2, -1))
        exponent = exponent + largest.log() / 2**i
        M = M / torch.where(largest > 0, largest, 1)[..., None, None]
        M = M @ M
    return (exponent + M.abs().amax((-2, -1)).log() / 2**SQUARINGS).exp()

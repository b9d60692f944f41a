"""What treats both factors of a layer as one product, before the optimizer's own update of each.

Both are remedies for what a random, fixed size of one factor does to training. For adapters whose factors are A and B.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.adapters.base import Adapter
from runner.core.gram import gram, inverse, norm, small_product
from runner.training.optimizers.base import per_run

FACTORS = ("A", "B")


class Pairs:
    """The factors A (K, r, n_in) and B (K, n_out, r) of every layer of K runs; each operation changes those runs alone that ask
    for it, and gives a run the same bits whatever runs are beside it.

    `configs`: the optimizers' options; `trains` (parameters, K): what each run trains, None where all do.
    """

    def __init__(
        self, configs: Sequence[Any], adapters: Mapping[str, Adapter], trains: Tensor | None, device: torch.device
    ):
        names = [(layer, name) for layer, adapter in adapters.items() for name in adapter.parameters]
        places = ([names.index((layer, name)) for name in FACTORS if (layer, name) in names] for layer in adapters)
        self.places = [tuple(pair) for pair in places if len(pair) == len(FACTORS)]
        asking = [k for k, c in enumerate(configs) if c.riemannian is not None]
        self.asking = torch.tensor(asking, device=device)
        self.damping = torch.tensor([configs[k].riemannian for k in asking], dtype=torch.float64, device=device)
        shrinks = [c.shrink or 0.0 for c in configs]
        self.shrinking = torch.tensor(shrinks, dtype=torch.float64, device=device) if any(shrinks) else None
        self.trains = None if trains is None else trains.to(device)

    @torch.no_grad()
    def precondition(self, gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
        """Riemannian: g_A ← (BᵀB + ρI)^-1·g_A, g_B ← g_B·(AAᵀ + ρI)^-1  (Zhang, Pilanci 2024, arXiv 2402.02347)."""
        gradients = list(gradients)
        for a, b in self.places if len(self.asking) else ():
            A, B, g_A, g_B = (x[self.asking] for x in (parameters[a], parameters[b], gradients[a], gradients[b]))
            new_A = small_product(inverse(self._damped(gram(B.mT))), g_A)
            new_B = small_product(inverse(self._damped(gram(A))), g_B.mT).mT
            for place, new in ((a, new_A), (b, new_B)):
                gradients[place] = gradients[place].index_copy(0, self.asking, new)
        return gradients

    def _damped(self, S: Tensor) -> Tensor:
        S.diagonal(dim1=1, dim2=2).add_(self.damping[:, None])
        return S

    @torch.no_grad()
    def shrink(self, parameters: Sequence[Tensor]) -> None:
        """Stable-LoRA: A ← (1 - λ)·A where ‖A‖ ≥ (entries of A / entries of B)·‖B‖  (arXiv 2603.05204)."""
        if self.shrinking is None:
            return
        for a, b in self.places:
            A, B = parameters[a], parameters[b]
            shrinks = norm(A) >= A[0].numel() / B[0].numel() * norm(B)
            shrinks = shrinks if self.trains is None else shrinks & self.trains[a]
            A.mul_(per_run(torch.where(shrinks, 1 - self.shrinking, 1.0), A))


def in_rows(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of A, B, A, B, …, layer by layer: A (K, r, n_in) and Bᵀ (K, r, n_out), which share memory with them."""
    return [p.mT if i % 2 else p for i, p in enumerate(parameters)]


def others(of_factors: Sequence[Tensor]) -> list[Tensor]:
    """Of what each of A, B, A, B, … has, that of the other factor of its layer."""
    return [of_factors[i ^ 1] for i in range(len(of_factors))]

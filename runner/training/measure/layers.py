"""The columns of all layers of a stack."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.adapters import Adapter
from runner.tasks.base import Probe
from runner.training.measure.layer import LayerMetrics, meter, of_factors
from runner.training.measure.metrics import METRICS, Update
from runner.training.measure.noise import columns as noise_columns
from runner.training.measure.noise import noise
from runner.training.measure.subspaces import Subspaces
from runner.training.measure.subspaces import columns as subspace_columns


class Meters:
    """Measures K runs, layer by layer; what is not compiled, as on a GPU, of all layers of a shape at once.

    `layers`: of each its adapter, its probe, and its weight W0 where it is followed how that moves; `subspaces`: what measures
    these, where they are followed; `parts`: of a batch, where its noise is measured.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Adapter, Probe, Tensor | None]],
        subspaces: Subspaces | None = None,
        parts: int | None = None,
    ):
        self.meters, self.subspaces, self.parts = [meter(*of_layer) for of_layer in layers], subspaces, parts
        adapters = [adapter for adapter, *_ in layers]
        self.columns = list(self.meters[0].columns)
        self.of_layers = len(self.columns)
        self.columns += subspace_columns(subspaces.rank) if subspaces else []
        self.without_noise = len(self.columns)
        self.columns += noise_columns(list(adapters[0].parameters)) if parts else []
        p = next(iter(adapters[0].parameters.values()))
        self.out = torch.empty(len(layers), len(self.columns), len(p), dtype=torch.float64, device=p.device)
        starts, at = [], 0
        for adapter in adapters:
            starts.append(slice(at, at := at + len(adapter.parameters)))
        self.parameters = starts  # of each layer, among those of all
        groups: dict[tuple[torch.Size, ...], list[int]] = {}
        for i, each in enumerate(self.meters):
            if isinstance(each, LayerMetrics) and each.by_formula.start < each.by_formula.stop:
                groups.setdefault((*(p.shape for p in adapters[i].parameters.values()), each.Z.shape), []).append(i)
        self.groups = [
            (torch.tensor(group, device=p.device), [self.meters[i] for i in group], [self.parameters[i] for i in group])
            for group in groups.values()
        ]

    @torch.no_grad()
    def measure(
        self,
        before: Sequence[Tensor],
        gradients: Sequence[Tensor],
        after: Sequence[Tensor],
        squares: Sequence[Tensor] = (),
    ) -> Tensor:
        """(layers, columns, K), float64, from the parameters around one update, layer after layer, and the `squares` of
        `noise`; those of heads come last, and nothing is measured of them. The next call overwrites it."""
        for places, meters, own in self.groups:
            around = ([of[part] for part in own] for of in (before, gradients, after))
            self.out[places, meters[0].by_formula] = _by_formula(meters, *around)
        # Of VeRA, whose vectors have norms of their own, some columns are replaced.
        for each, own, out in zip(self.meters, self.parameters, self.out, strict=True):
            each.measure(before[own], gradients[own], after[own], out[: self.of_layers])
        if self.subspaces:
            old, new = (
                [m.adapter.learned(of[own]) for m, own in zip(self.meters, self.parameters, strict=True)]
                for of in (before, after)
            )
            place = slice(self.of_layers, self.without_noise)
            self.out[:, place] = self.subspaces.measure(old, new, [m.scale for m in self.meters])
        if self.parts:
            for own, out in zip(self.parameters, self.out, strict=True):
                each = zip(squares[own], gradients[own], strict=True)
                out[self.without_noise :] = torch.stack([noise(square, g, self.parts) for square, g in each])
        return self.out


Tensors = Sequence[Sequence[Tensor]]  # of layers


def _by_formula(meters: Sequence[LayerMetrics], before: Tensors, gradients: Tensors, after: Tensors) -> Tensor:
    """(layers, columns, K) of the METRICS that are not compiled, of layers of a shape."""

    def stacked(pairs: Tensors) -> list[Tensor]:
        """The first of each pair, and the second: (layers·K, …)."""
        return [torch.stack(tensors).flatten(0, 1).double() for tensors in zip(*pairs, strict=True)]

    old, new = (stacked([m.adapter.learned(p) for m, p in zip(meters, of, strict=True)]) for of in (before, after))
    moves = [a - b for a, b in zip(new, old, strict=True)]
    scale, Z = torch.cat([m.scale for m in meters]).double(), torch.stack([m.Z for m in meters]).double()
    update = Update(*old, *stacked([g[:2] for g in gradients]), *moves, scale, Z)
    names = of_factors()[meters[0].by_formula]
    values = torch.stack([METRICS[name].measure(update) for name in names])
    return values.view(len(names), len(meters), -1).transpose(0, 1)

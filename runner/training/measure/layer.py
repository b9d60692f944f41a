"""The columns of one layer: of any two factors by `metrics`, and what VeRA's vectors, DoRA's lengths and rows add to them; of a
weight that is trained whole by `weight`."""

from collections.abc import Sequence

import numba
import torch
from torch import Tensor

from runner.adapters import Adapter, Factored, Full
from runner.adapters.dora import WeightRows
from runner.config import Config
from runner.config.registry import ADAPTERS
from runner.tasks.base import Probe
from runner.training.measure import compiled, noise, subspaces, weight
from runner.training.measure.frozen import FROZEN, measured
from runner.training.measure.metrics import METRICS, norm
from runner.training.measure.rows import CHANGES, moved


def of_factors() -> list[str]:
    """The columns of two factors: those that are compiled, then all others."""
    return [*compiled.COLUMNS, *(name for name in METRICS if name not in compiled.COLUMNS)]


def columns(parameters: Sequence[str], changes: bool) -> list[str]:
    """Of an adapter with these parameters, its inner and outer ones first; `changes`: whether CHANGES are among them."""
    inner, outer, *further = parameters
    two = [name.replace("/A", f"/{inner}").replace("/B", f"/{outer}") for name in of_factors()]
    norms = [f"{kind}/{name}" for name in further for kind in ("grad", "param", "update")]
    return [*two, *FROZEN, *norms, *CHANGES * changes]


def columns_of(config: Config) -> list[str]:
    """What a run with this configuration measures at every logged step, and at the end."""
    kind = ADAPTERS[config.adapter.name]
    parameters, directions = list(kind.sides), config.log.directions
    whole = issubclass(kind, Full)
    own = weight.columns(directions) if whole else columns(parameters, kind.rescales or directions)
    own += subspaces.columns(config.adapter.rank) if config.log.subspaces else []
    return own + (noise.columns(parameters) if config.log.noise else [])


def meter(adapter: Adapter, probe: Probe, W0: Tensor | None = None) -> "LayerMetrics | weight.WeightMetrics":
    """What measures an adapter on the probe; where a weight W0 is given, also how its rows move."""
    return (weight.WeightMetrics if isinstance(adapter, Full) else LayerMetrics)(adapter, probe, W0)


class LayerMetrics:
    """Measures the K runs of an adapter on a fixed probe; `columns` names what it measures.

    VeRA's factors are diag(d)·A and diag(b)·B: features and weights are theirs, norms those of d and b, and `balance` is
    |‖b‖² - ‖d‖²|, which gradient flow keeps. Where a weight W0 is given, and for DoRA, it measures `changes` too.
    """

    def __init__(self, adapter: Factored, probe: Probe, W0: Tensor | None = None):
        self.adapter, self.Z, self.scale = adapter, probe.Z, adapter.scale
        self.rows = adapter.rows if adapter.rescales else None if W0 is None else WeightRows(W0, probe.Z.dtype)
        self.columns = columns(list(adapter.parameters), self.rows is not None)
        self.frozen = measured(probe)
        self.panels = compiled.panels(probe.Z) if compiled.has_kernels(probe.Z.device) else None
        self.by_formula = slice(0 if self.panels is None else len(compiled.COLUMNS), len(METRICS))

    @torch.no_grad()
    def measure(
        self, before: Sequence[Tensor], gradients: Sequence[Tensor], after: Sequence[Tensor], out: Tensor
    ) -> None:
        """Fill out (columns, K), float64, in the order of `columns`, from the parameters around one update; but for those of
        METRICS that are not compiled."""
        if self.panels is not None:
            self._two_factors(before, gradients[:2], after, out[: len(compiled.COLUMNS)])
        first = len(METRICS)
        out[first : first + len(FROZEN)] = self.frozen
        place = {name: i for i, name in enumerate(self.columns)}
        named = list(zip(self.adapter.parameters, before, gradients, after, strict=True))
        for name, old, gradient, new in named if self.adapter.diagonal else named[2:]:
            out[place[f"grad/{name}"]] = norm(gradient)
            out[place[f"param/{name}"]] = norm(old)
            out[place[f"update/{name}"]] = norm(new.double() - old.double())
        if self.adapter.diagonal:
            d, b = (p.double().square().sum(1) for p in before)
            out[place["balance"]] = (b - d).abs()
        if self.rows is not None:
            magnitudes = before[2] if self.adapter.rescales else None
            out[-len(CHANGES) :] = torch.stack(changes(self.rows, *self.adapter.factors(before), magnitudes))

    def _two_factors(
        self, before: Sequence[Tensor], gradients: Sequence[Tensor], after: Sequence[Tensor], out: Tensor
    ) -> None:
        """What is compiled."""
        matrices = [g if g.dim() == 3 else g.unsqueeze(-1) for g in gradients]
        learned = *self.adapter.learned(before), *matrices, *self.adapter.learned(after), self.scale
        arrays = (t.detach().contiguous().numpy() for t in learned)
        groups = min(len(self.scale), numba.get_num_threads())
        compiled.measure(*arrays, self.panels, len(self.Z), groups, out.numpy())


def changes(rows: WeightRows, inner: Tensor, outer: Tensor, magnitudes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far the rows of W0 + outer·inner have moved from those of W0, as `moved` has it; `magnitudes`: DoRA's m."""
    along = (outer * rows.cross(inner).mT).sum(2).double()
    inner, outer = inner.double(), outer.double()
    change = (outer * (outer @ (inner @ inner.mT))).sum(2).clamp_min(0)
    return moved(rows.squares.sqrt().double(), along, change, magnitudes)

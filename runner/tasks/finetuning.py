"""What the tasks on transformers models share: K runs folded into the batch of one frozen model."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from runner.config import Config, ConfigError
from runner.config.registry import ADAPTERS
from runner.inits import Calibration
from runner.tasks.base import PER_OUTPUT, Adapters, Probe, Task, run_count
from runner.tasks.models import bases, compatibility, fields, hooks, spec
from runner.tasks.models.calibration import calibrate
from runner.tasks.models.folding import check_folding
from runner.tasks.models.options import ModelOptions
from runner.tasks.models.text import Examples, Order

HEAD_STD = 0.02  # of a head's weights, as transformers draws them; its bias starts at zero
PROBE_SEQUENCES = 8  # held-out sequences of which the probe's tokens are taken


class ModelTask(Task):
    """A frozen transformers model whose target layers have adapters.

    A step takes each run's own sequences, in the order that its seed gives, through the model at once. Runs of every seed
    share base and data, so they share stacks. Features are measured on the inputs that the layers have in the frozen model.
    """

    compiles = True
    seeds_share_base = True
    exports: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    max_stack_size: ClassVar[int] = 8
    objective = "final_eval_loss"

    def __init__(self, configs: Sequence[Config]):
        config = configs[0]
        self.config = task = config.task
        self.base_dtype = getattr(torch, task.base_dtype or config.dtype)
        training, held_out = self.examples(config)
        self.training, self.held_out = training, held_out.pick(task.eval_sequences)
        self.order = Order([c.seed for c in configs], len(training), task.batch_size)
        self.rates = [c.adapter.dropout for c in configs]  # of dropout
        self.step, self.rows = 0, self.order.at(0)
        self.model = bases.load(task, config.bases, self.labels(task), self.base_dtype)
        modules = spec.linear_layers(self.model)
        described = spec.of(task, self.labels(task))
        names = spec.select(list(described.layers), task.targets)
        self.heads = {} if self.labels(task) is None else described.heads
        self.modules = {name: modules[name] for name in (*names, *self.heads)}
        self.layers = {name: spec.weight(modules[name]).detach() for name in names}

    @classmethod
    def build(cls, configs: Sequence[Config]) -> "ModelTask":
        return cls(configs)

    @classmethod
    @abstractmethod
    def labels(cls, task: ModelOptions) -> int | None:
        """Number of labels, None for a language model."""

    @classmethod
    @abstractmethod
    def examples(cls, config: Config) -> tuple[Examples, Examples]:
        """(training, held-out). Raises ConfigError."""

    @abstractmethod
    def per_example(self, examples: Examples, rows: Tensor) -> dict[str, Tensor]:
        """Per-example `loss` (N,), and further metrics, of these examples under the model as it is now."""

    @classmethod
    def shapes(cls, task: ModelOptions) -> dict[str, tuple[int, int]]:
        layers = spec.of(task, cls.labels(task)).layers
        return {name: layers[name] for name in spec.select(list(layers), task.targets)}

    @classmethod
    def cost(cls, task: ModelOptions, multiplied: int = 0) -> float:
        """A token meets every parameter."""
        entries = spec.of(task, cls.labels(task)).parameters + multiplied
        return task.batch_size * task.sequence_length * entries / PER_OUTPUT

    @classmethod
    def activations(cls, config: Config, fused: bool) -> float:
        tokens = config.task.batch_size // config.task.accumulation * config.task.sequence_length
        saved = spec.of(config.task, cls.labels(config.task)).saved_per_token
        if ADAPTERS[config.adapter.name].rescales:  # keeps the frozen outputs, and on its way back their gradients
            saved += 2 * sum(n_out for n_out, _ in cls.shapes(config.task).values())
        return tokens * saved

    @classmethod
    def frozen(cls, config: Config) -> float:
        dtype = getattr(torch, config.task.base_dtype or config.dtype)
        return float(dtype.itemsize * spec.of(config.task, cls.labels(config.task)).parameters)

    @classmethod
    def resolve(cls, task: ModelOptions) -> ModelOptions:
        return fields.resolved(task)

    @classmethod
    def check(cls, config: Config) -> None:
        labels = cls.labels(config.task)
        fields.check(config.task, labels)
        if config.adapter.start_from is not None:
            heads = {} if labels is None else spec.of(config.task, labels).heads
            compatibility.check(config, cls.shapes(config.task), heads)

    @classmethod
    def prepare(cls, config: Config) -> None:
        """Read the data and pretrain the base, so that what is wrong with them is said before anything is trained."""
        known = spec.of(config.task, cls.labels(config.task)).vocabulary
        largest = max(int(part.tokens.max()) for part in cls.examples(config))
        if largest >= known:
            raise ConfigError(
                f"task.model={config.task.model}: its tokenizer gives token {largest}, and the model knows {known}; the two are "
                "not of one checkpoint"
            )
        bases.prepare(config.task, config.bases, cls.labels(config.task))

    def to(self, device: torch.device, dtype: torch.dtype) -> "ModelTask":
        self.model.to(device)
        self.layers = {name: spec.weight(self.modules[name]).detach() for name in self.layers}
        self.training, self.held_out = self.training.to(device), self.held_out.to(device)
        self.device, self.dtype = device, dtype
        self.rows = self.rows.to(device)
        if device.type == "cuda":
            self.now = torch.zeros(1, dtype=torch.int64, device=device)
            self.keys = hooks.DropoutOnDevice.keys_of(self.order.seeds).to(device)
            self.chances = torch.tensor(self.rates, device=device)[:, None]
        rows = torch.arange(2, device=device) % len(self.held_out)
        targets = {name: self.modules[name] for name in self.layers}
        check_folding(
            self.config.model, targets, rows, dtype, lambda rows: self.per_example(self.held_out, rows)["loss"]
        )
        return self

    def calibrate(self, examples: int, needs: Collection[str]) -> dict[str, Calibration]:
        at_once = max(1, self.config.batch_size // self.config.accumulation)
        targets = {name: self.modules[name] for name in self.layers}
        seen = calibrate(targets, self.per_example, self.training.pick(examples), at_once, needs)
        if idle := [name for name in targets if name not in seen]:
            raise self._idle(idle[0])
        return seen

    def replace(self, weights: dict[str, Tensor]) -> None:
        for name, weight in weights.items():
            self.layers[name].copy_(weight)  # a view of the module's own

    def to_step(self, step: int) -> None:
        rows = self.order.at(step)
        if self.device.type == "cuda":
            rows = rows.pin_memory()  # so that nobody waits for the copy
            self.now.fill_(step)
        self.rows.copy_(rows, non_blocking=True)
        self.step = step

    def loss_and_grad(self, adapters: Adapters) -> tuple[Tensor, list[Tensor]]:
        return self.accumulated(partial(self.of_part, adapters))

    def accumulated(self, of_part: Callable[..., tuple[Tensor, list[Tensor]]]) -> tuple[Tensor, list[Tensor]]:
        """Losses (K,) and gradients of the step, from those of the parts in which its examples come: `of_part` is given the
        examples, run after run, and what drops of theirs."""
        losses, gradients, squares = 0.0, None, []
        for part in range(self.config.accumulation):
            loss, new = of_part(self.seen(part), self.dropout(part))
            if self.measures_noise:
                squares.append([g.double().flatten(1).square().sum(1) for g in new])
            gradients = new if gradients is None else [a + b for a, b in zip(gradients, new, strict=True)]
            losses = losses + loss
        self.part_squares = [sum(of) for of in zip(*squares, strict=True)]
        return losses.to(self.dtype), list(gradients)

    def of_part(
        self, adapters: Adapters, examples: Examples, dropout: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses (K,), divided by the number of parts, and their gradients in the adapters' parameters, with autograd."""
        loss = self._losses_of_part(adapters, examples, dropout)
        parameters = [p for adapter in adapters.values() for p in adapter.parameters.values()]
        # Runs share no parameter, so the gradient of the sum holds each run's own gradient.
        return loss.detach(), list(torch.autograd.grad(loss.sum(), parameters))

    @torch.no_grad()
    def losses(self, adapters: Adapters) -> Tensor:
        parts = range(self.config.accumulation)
        losses = sum(self._losses_of_part(adapters, self.seen(part), self.dropout(part)) for part in parts)
        return losses.to(self.dtype)

    def _losses_of_part(
        self, adapters: Adapters, examples: Examples, dropout: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        rows = torch.arange(len(examples), device=examples.tokens.device)
        with hooks.attached(self.modules, adapters, dropout):
            losses = self.per_example(examples, rows)["loss"]
        return losses.view(run_count(adapters), -1).mean(1) / self.config.accumulation

    def seen(self, part: int) -> Examples:
        """What the runs see at the step in one of its parts, run after run."""
        return self.training.at(self.rows.chunk(self.config.accumulation, dim=1)[part].flatten())

    def dropout(self, part: int) -> hooks.Dropout | None:
        if not max(self.rates):
            return None
        if self.device.type == "cuda":
            return hooks.DropoutOnDevice(self.keys, self.chances, self.now, part)
        return hooks.Dropout(self.order.seeds, self.rates, self.step, part)

    @torch.no_grad()
    def evaluate(self, adapters: Adapters) -> dict[str, Tensor]:
        if self.step > 0:  # a run has trained
            return self._evaluated(adapters)
        # Runs whose adapters add nothing, as most do at the start, say the same: one of them is evaluated.
        alike = torch.stack([adapter.adds_nothing() for adapter in adapters.values()]).all(0)
        places, first = torch.arange(len(alike), device=alike.device), int(alike.int().argmax())
        speaks, of_run = places.where(~alike, first).unique(return_inverse=True)
        found = self._evaluated({name: adapter.of(speaks) for name, adapter in adapters.items()})
        return {name: values[of_run] for name, values in found.items()}

    def _evaluated(self, adapters: Adapters) -> dict[str, Tensor]:
        """Column -> mean (K,) over the held-out examples."""
        runs = run_count(adapters)
        at_once = max(1, self.config.batch_size // self.config.accumulation)
        sums: dict[str, Any] = {}
        with hooks.attached(self.modules, adapters):
            for rows in torch.arange(len(self.held_out), device=self.device).split(at_once):
                for name, values in self.per_example(self.held_out, rows.repeat(runs)).items():
                    sums[name] = sums.get(name, 0.0) + values.view(runs, -1).sum(1, dtype=torch.float64)
        return {f"eval/{name}": total / len(self.held_out) for name, total in sums.items()}

    def _idle(self, layer: str) -> ConfigError:
        return ConfigError(
            f"task.targets={self.config.targets}: {layer} is not called as a layer of its own; name others"
        )

    def probe(self, size: int) -> dict[str, Probe]:
        """Inputs and outputs of the target layers in the frozen model, at tokens spread evenly over a few held-out sequences."""
        rows = torch.arange(min(PROBE_SEQUENCES, len(self.held_out)), device=self.device)
        targets = {name: self.modules[name] for name in self.layers}

        def some(x: Tensor) -> Tensor:
            x = x.flatten(0, -2)
            places = torch.linspace(0, len(x) - 1, min(size, len(x)), device=x.device).round().long()
            return x[places].to(self.dtype)

        seen = hooks.calls(targets, lambda: self.per_example(self.held_out, rows), some)
        if idle := [name for name in targets if name not in seen]:
            raise self._idle(idle[0])
        biases = {name: module.bias for name, module in targets.items()}
        return {name: Probe(Z, y if biases[name] is None else y - biases[name].to(y)) for name, (Z, y) in seen.items()}

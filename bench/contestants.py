"""Five ways to train the same runs of teacher_student with AdamW and to measure the same things at every step.

A contestant trains runs that share a base, calls `tick` after every step and returns the losses at its last one. All
start from the same adapters and take from the base the same constants: the layer's input Z and, but for PEFT, which wraps
the layer itself, its frozen output.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from runner.adapters import LoRA
from runner.config import Config
from runner.config.resources import resolve_device
from runner.tasks.teacher_student import TeacherStudent
from runner.training.measure.metrics import METRICS, Update
from runner.training.optimizers.base import build
from runner.training.optimizers.schedules import learning_rates
from runner.training.start import build_adapters
from runner.training.step import lr_ratios
from runner.training.train import build_task, train

Tick = Callable[[], None]


def engine(configs: Sequence[Config], tick: Tick) -> Tensor:
    """Ours: all runs in lockstep, with the engine that the configuration names."""
    seen = []

    def progress(step: int, losses: Tensor, *_: object) -> None:
        if step < configs[0].steps:  # there it measures what the last update led to, as nobody else does
            seen[:] = [losses.to(getattr(torch, configs[0].dtype))]
            tick()

    train(configs, progress)
    return seen[0]


def plain_loop(configs: Sequence[Config], tick: Tick) -> Tensor:
    """The first run, in the PyTorch that one would write: autograd and torch.optim."""
    task, adapter = start(configs[:1])
    A, B = (p.detach()[0].clone().requires_grad_() for p in adapter.parameters.values())
    Z, y0, target, w = task.train.Z, task.train.y0, task.train.target, task.readout

    def loss() -> Tensor:
        return (((y0 + adapter.scale * (Z @ A.T) @ B.T).relu() @ w) - target).square().mean()

    return train_one(configs[0], task, [A, B], loss, adapter.scale, tick)


def peft(configs: Sequence[Config], tick: Tick) -> Tensor:
    """The first run, as an adapter of PEFT on an nn.Linear, with torch.optim."""
    task, adapter = start(configs[:1])
    config, batch = configs[0], task.train

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(*task.W0.T.shape, bias=False)
            self.hidden.weight = nn.Parameter(task.W0)

        def forward(self, Z: Tensor, Y_in: Tensor) -> Tensor:
            return (Y_in + self.hidden(Z)).relu() @ task.readout

    own = config.adapter
    lora = LoraConfig(r=own.rank, lora_alpha=own.alpha, target_modules=["hidden"], use_dora=own.name == "dora")
    model = inject_adapter_in_model(lora, Student())
    names = ("lora_A", "lora_B", "lora_magnitude_vector")[: len(adapter.parameters)]
    parameters = [getattr(model.hidden, name)["default"].weight for name in names]
    model.to(batch.Z.device)
    with torch.no_grad():
        for p, first in zip(parameters, adapter.parameters.values(), strict=True):
            p.copy_(first[0])
    Y_in = batch.y0 - batch.Z @ task.W0.T.to(batch.Z)

    def loss() -> Tensor:
        return (model(batch.Z, Y_in) - batch.target).square().mean()

    return train_one(config, task, parameters, loss, adapter.scale, tick)


def vmap(configs: Sequence[Config], tick: Tick) -> Tensor:
    """All runs at once by torch.func.vmap, with our stacked optimizer: torch.optim knows no learning rate per run."""
    task, adapter = start(configs)
    Z, y0, target, w = task.train.Z, task.train.y0, task.train.target, task.readout

    def loss(A: Tensor, B: Tensor, scale: Tensor) -> Tensor:
        return (((y0 + scale * (Z @ A.T) @ B.T).relu() @ w) - target).square().mean()

    gradients_and_losses = torch.func.vmap(torch.func.grad_and_value(loss, argnums=(0, 1)))
    A, B = parameters = [p.detach() for p in adapter.parameters.values()]
    options = [c.optimizer for c in configs]
    optimizer = build(options, parameters)
    lrs = learning_rates(options, configs[0].steps)[:, None] * lr_ratios(configs, {"hidden": adapter})
    measure = Measure(task, configs[0], adapter.scale)
    for step in range(configs[0].steps):
        gradients, losses = gradients_and_losses(A, B, adapter.scale)
        before = [p.clone() for p in parameters]
        optimizer.step(gradients, lrs[step])
        measure(losses, before, gradients, parameters)
        tick()
    return losses


def train_one(
    config: Config,
    task: TeacherStudent,
    parameters: list[Tensor],
    loss: Callable[[], Tensor],
    scale: Tensor,
    tick: Tick,
) -> Tensor:
    """The loop of those who train one run at a time. The metrics are those of A and B, which come first."""
    o, measure = config.optimizer, Measure(task, config, scale)
    optimizer = torch.optim.AdamW(parameters, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=o.weight_decay)
    for _ in range(config.steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        before = [p.detach().clone() for p in parameters[:2]]
        optimizer.step()
        factors = [[p.grad for p in parameters[:2]], [p.detach() for p in parameters[:2]]]
        measure(value.detach(), *([t[None] for t in ts] for ts in (before, *factors)))
        tick()
    return value.detach()[None]


class Measure:
    """The metrics of every step, by the functions that define them, and the losses, where the configuration logs them."""

    def __init__(self, task: TeacherStudent, config: Config, scale: Tensor):
        self.probe, self.scale, self.rows, self.on = (
            task.probe(config.probe.size)["hidden"].Z,
            scale,
            [],
            config.log.every == 1,
        )

    def __call__(self, losses: Tensor, before: Sequence[Tensor], gradients: Sequence[Tensor], after: Sequence[Tensor]):
        if self.on:
            updates = [new - old for new, old in zip(after, before, strict=True)]
            row = measured(*before, *gradients, *updates, self.scale, self.probe[None])
            self.rows.append({"loss": losses, **row})


def start(configs: Sequence[Config]) -> tuple[TeacherStudent, LoRA]:
    """The base and the adapters that every contestant starts from."""
    device = resolve_device(configs[0].device)
    task = build_task(configs).to(device, torch.float32)
    return task, build_adapters(configs, task, device, torch.float32)["hidden"]


class ByLibrary(Update):
    """With what there is for one layer at a time: a step of a loop waits for its decompositions, but they are the faster."""

    @cached_property
    def spectral(self) -> Tensor:
        R = torch.linalg.qr(self.B).R @ torch.linalg.qr(self.A.mT).R.mT
        return self.scale * torch.linalg.svdvals(R)[:, 0]


def measured(*tensors: Tensor) -> dict[str, Tensor]:
    """The metrics of A, B, gradients, updates, scale and probe, as one would measure them in a loop."""
    update = ByLibrary(*(t.double() for t in tensors))
    return {name: metric.measure(update) for name, metric in METRICS.items()}

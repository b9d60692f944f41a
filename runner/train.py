"""The loop: K runs in lockstep on one frozen base. A single run is a stack with K = 1."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from runner import optim
from runner.adapters import Adapter
from runner.checkpoint import Checkpoint
from runner.checks import resolve_device, resolve_engine
from runner.fused import Fused
from runner.log import Log, summarise
from runner.metrics import Gauge
from runner.schema import Config
from runner.start import build_adapters, count, trained, weights
from runner.store import DIVERGED, FINISHED, Outcome
from runner.tasks import TASKS, Task

LOOK_EVERY = 10  # steps between looks at whether any run is left: each waits for the device
Progress = Callable[[int, Tensor], None]


def train(configs: Sequence[Config], progress: Progress = lambda step, losses: None) -> list[Outcome]:
    """Train K runs that may share a stack (`plan.stack_key`); one outcome each, in order.

    Row t of a run's steps holds the loss, gradients and state at the parameters before update t, and the increments of
    update t; the last row, t = steps, holds the final state and no increments. A run whose loss is not finite or exceeds
    `stability.max_ratio` times its initial loss ends there: nothing later is kept of it, and its neighbours, with which it
    shares no number, go on as if nothing had happened. A stack that was killed goes on from its checkpoint.
    """
    shared = configs[0]
    device, dtype = resolve_device(shared.device), getattr(torch, shared.dtype)
    task = build_task(configs).to(device, dtype)
    adapters = build_adapters(configs, task, device, dtype)
    engine = Fused(task) if resolve_engine(shared) == "fused" else task
    parameters = [p.detach() for adapter in adapters.values() for p in adapter.parameters.values()]
    trains = trained(adapters)
    optimizer = optim.build([c.optimizer for c in configs], parameters)
    lrs = (learning_rates(configs, adapters) * trains).to(device)
    largest = optim.clipping([c.optimizer for c in configs], device)
    probe = task.probe(shared.probe.size)
    directions = {layer: W0.to(device) for layer, W0 in task.layers.items() if shared.log.directions}
    gauges = [Gauge(adapters[layer], probe[layer], directions.get(layer)) for layer in task.layers]
    measured = torch.empty(len(gauges), len(gauges[0].columns), len(configs), dtype=torch.float64, device=device)

    log = Log(configs, list(task.layers), gauges[0].columns, task.evals, device)
    stability = Stability(configs, device, dtype)
    before = [torch.empty_like(p) for p in parameters]
    state = {f"parameter{i}": p for i, p in enumerate(parameters)}
    for part, tensors in (("optimizer", optimizer.state), ("log", log.state), ("stability", stability.state)):
        state |= {f"{part}/{name}": tensor for name, tensor in tensors.items()}
    checkpoint = Checkpoint(configs)
    for step in range(checkpoint.restore(state), shared.steps + 1):
        losses, gradients = engine.loss_and_grad(adapters, step)
        log.losses[step] = losses
        stability.look(step, losses)
        last = step == shared.steps or (step % LOOK_EVERY == 0 and not stability.alive.any())
        if log.evaluates(shared, step):
            log.evaluated(step, engine.evaluate(adapters))
        if log.wants(step):
            for kept, p in zip(before, parameters, strict=True):
                kept.copy_(p)
        if not last:
            used = gradients if trains.all() else optim.hold(gradients, trains)
            optimizer.step(used if largest is None else optim.clip(used, largest), lrs[step])
        if log.wants(step):
            size = len(gauges[0].adapter.parameters)
            for i, (gauge, out) in enumerate(zip(gauges, measured, strict=True)):  # heads have no gauge, and come last
                of_layer = slice(size * i, size * (i + 1))
                gauge.measure(before[of_layer], gradients[of_layer], parameters[of_layer], out)
            log.measured(step, measured)
        progress(step, losses)
        if last:
            break
        if checkpoint.due():
            checkpoint.save(step + 1, state)
    keeps = task.exports if shared.log.weights is None else shared.log.weights
    return _outcomes(log, stability, count(adapters), adapters if keeps else {})


def build_task(configs: Sequence[Config]) -> Task:
    """The base and data that these runs share, on the CPU."""
    return TASKS[configs[0].task.name].build(configs)


class Stability:
    """Which runs are alive, and at which step each ended (at the last, if it has not diverged)."""

    def __init__(self, configs: Sequence[Config], device: torch.device, dtype: torch.dtype):
        self.max_ratio = torch.tensor([c.stability.max_ratio for c in configs], device=device, dtype=dtype)
        self.ceiling = torch.zeros_like(self.max_ratio)
        self.ends = torch.full((len(configs),), configs[0].steps, device=device)
        self.alive = torch.ones(len(configs), dtype=torch.bool, device=device)

    def look(self, step: int, losses: Tensor) -> None:
        """Take a step's losses (K,)."""
        if step == 0:
            torch.mul(self.max_ratio, losses, out=self.ceiling)
        stable = losses.isfinite() & (losses <= self.ceiling)
        self.ends.copy_(torch.where(self.alive & ~stable, step, self.ends))
        self.alive &= stable

    @property
    def state(self) -> dict[str, Tensor]:
        return {"ceiling": self.ceiling, "ends": self.ends, "alive": self.alive}


def learning_rates(configs: Sequence[Config], adapters: dict[str, Adapter]) -> Tensor:
    """(steps, parameters, K) float64: the scheduled lr of each parameter; `lr_ratio` times it on the output side."""
    lrs = optim.learning_rates([c.optimizer for c in configs], configs[0].steps)
    ratios = torch.tensor([c.optimizer.lr_ratio for c in configs], dtype=torch.float64)
    sides = [adapter.sides.get(name) for adapter in adapters.values() for name in adapter.parameters]
    return torch.stack([lrs * ratios if side == "B" else lrs for side in sides], dim=1)


def _outcomes(log: Log, stability: Stability, sizes: list[int], adapters: dict[str, Adapter]) -> list[Outcome]:
    losses, ends, alive = log.losses.cpu().numpy(), stability.ends.tolist(), stability.alive.tolist()
    outcomes = []
    for k, ((steps, layers), end) in enumerate(zip(log.tables(ends), ends, strict=True)):
        evals = {name: steps[name].to_numpy() for name in log.evals}
        summary = summarise(losses[: end + 1, k], evals, None if alive[k] else end)
        summary["trainable_parameters"] = sizes[k]
        kept = weights(adapters, k) if adapters and alive[k] else None
        outcomes.append(Outcome(FINISHED if alive[k] else DIVERGED, steps, summary, layers=layers, weights=kept))
    return outcomes

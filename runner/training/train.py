"""The loop: K runs in lockstep on one frozen base. A single run is a stack with K = 1."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from runner.adapters import Adapter
from runner.config import Config
from runner.config.registry import ADAPTERS, TASKS
from runner.config.resources import resolve_device
from runner.core.messages import announce
from runner.store.runs import DIVERGED, FINISHED, Outcome
from runner.tasks.base import Task
from runner.training.checkpoint import Checkpoint
from runner.training.engines import build_engine
from runner.training.log import Log, summarise
from runner.training.measure import compiled
from runner.training.measure.layer import meter
from runner.training.optimizers import base as optimizers
from runner.training.optimizers.clipping import clip, clipping
from runner.training.optimizers.schedules import learning_rates as schedule
from runner.training.stability import Stability
from runner.training.stack import check_stack
from runner.training.start import build_adapters, count, trained, weights

STOP_CHECK_EVERY = 10  # steps between checks whether any run is alive: each waits for the device
# Is called at every step with its number, the losses (K,), and the stack's log and stability so far.
Progress = Callable[[int, Tensor, Log, Stability], None]


def train(configs: Sequence[Config], progress: Progress = lambda *_: None, ahead: int | None = None) -> list[Outcome]:
    """Train K runs that may share a stack (`stack_key`); one outcome each, in order. Raises ConfigError if they may not.

    Row t of a run's steps holds the loss, gradients and state at the parameters before update t, and the increments of
    update t; the last row, t = steps, holds the final state and no increments. A run whose loss is not finite or exceeds
    `stability.max_ratio` times its initial loss ends there: nothing later of it is stored, and its neighbours, with which it
    shares no number, go on as if nothing had happened. A stack that was killed goes on from its checkpoint.

    `ahead`: steps of all runs like these that are to come in the sweep, these included; None: no more than these.
    """
    check_stack(configs)
    shared = configs[0]
    device, dtype = resolve_device(shared.device), getattr(torch, shared.dtype)
    task = build_task(configs).to(device, dtype)
    adapters = build_adapters(configs, task, device, dtype)
    parameters = [p.detach() for adapter in adapters.values() for p in adapter.parameters.values()]
    trains = trained(adapters)
    optimizer = optimizers.build([c.optimizer for c in configs], parameters)
    lrs = (learning_rates(configs, adapters) * trains).to(device)
    max_norm = clipping([c.optimizer for c in configs], device)
    probe = task.probe(shared.probe.size)
    directions = {layer: W0.to(device) for layer, W0 in task.layers.items() if shared.log.directions}
    meters = [meter(adapters[layer], probe[layer], directions.get(layer)) for layer in task.layers]
    measured = torch.empty(len(meters), len(meters[0].columns), len(configs), dtype=torch.float64, device=device)

    log = Log(configs, list(task.layers), meters[0].columns, task.evals, device)
    stability = Stability(configs, device, dtype)
    before = [torch.empty_like(p) for p in parameters]
    state = {f"parameter{i}": p for i, p in enumerate(parameters)}
    for part, tensors in (("optimizer", optimizer.state), ("log", log.state), ("stability", stability.state)):
        state |= {f"{part}/{name}": tensor for name, tensor in tensors.items()}
    checkpoint = Checkpoint(configs, log.columns)
    checkpoint.engine, engine = build_engine(configs, task, adapters, ahead, checkpoint.begun_by())
    if device.type == "cpu" and not compiled.measure.signatures:
        announce("compiling kernels (or loading them)")
    for step in range(checkpoint.restore(state), shared.steps + 1):
        losses, gradients = engine.loss_and_grad(adapters, step)
        log.losses[step] = losses
        stability.update(step, losses)
        last = step == shared.steps or (step % STOP_CHECK_EVERY == 0 and not stability.alive.any())
        if log.evaluates(shared, step):
            log.evaluated(step, engine.evaluate(adapters))
        if log.has_row(step):
            for old, p in zip(before, parameters, strict=True):
                old.copy_(p)
        if not last:
            used = gradients if trains.all() else optimizers.mask_frozen(gradients, trains)
            optimizer.step(used if max_norm is None else clip(used, max_norm), lrs[step])
        if log.has_row(step):
            size = len(meters[0].adapter.parameters)
            for i, (each, out) in enumerate(zip(meters, measured, strict=True)):  # heads, which come last, have none
                of_layer = slice(size * i, size * (i + 1))
                each.measure(before[of_layer], gradients[of_layer], parameters[of_layer], out)
            log.measured(step, measured)
        progress(step, losses, log, stability)
        if last:
            break
        if checkpoint.due():
            checkpoint.save(step + 1, state)
    exported = task.exports and bool(ADAPTERS[shared.adapter.name].peft)
    keeps = exported if shared.log.weights is None else shared.log.weights
    return _outcomes(log, stability, count(adapters), adapters if keeps else {}, checkpoint.engine)


def build_task(configs: Sequence[Config]) -> Task:
    """The base and data that these runs share, on the CPU."""
    return TASKS[configs[0].task.name].build(configs)


def learning_rates(configs: Sequence[Config], adapters: dict[str, Adapter]) -> Tensor:
    """(steps, parameters, K) float64: the scheduled lr of each parameter; `lr_ratio` times it on the output side."""
    lrs = schedule([c.optimizer for c in configs], configs[0].steps)
    ratios = torch.tensor([c.optimizer.lr_ratio for c in configs], dtype=torch.float64)
    sides = [adapter.sides.get(name) for adapter in adapters.values() for name in adapter.parameters]
    return torch.stack([lrs * ratios if side == "B" else lrs for side in sides], dim=1)


def _outcomes(
    log: Log, stability: Stability, sizes: list[int], adapters: dict[str, Adapter], engine: str
) -> list[Outcome]:
    losses, ends, alive = log.losses.cpu().numpy(), stability.ends.tolist(), stability.alive.tolist()
    outcomes = []
    for k, ((steps, layers), end) in enumerate(zip(log.tables(ends), ends, strict=True)):
        evals = {name: steps[name].to_numpy() for name in log.evals}
        summary = summarise(losses[: end + 1, k], evals, None if alive[k] else end)
        summary["trainable_parameters"] = sizes[k]
        own = weights(adapters, k) if adapters and alive[k] else None
        status = FINISHED if alive[k] else DIVERGED
        outcomes.append(Outcome(status, steps, summary, layers=layers, weights=own, engine=engine))
    return outcomes

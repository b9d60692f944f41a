"""The loop: K runs in lockstep on one frozen base. A single run is a stack with K = 1."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from runner.config import Config
from runner.config.registry import ADAPTERS, TASKS
from runner.config.resources import resolve_device
from runner.core.machine import matmul_precision
from runner.core.messages import announce
from runner.store.outcome import DIVERGED, FINISHED, Outcome
from runner.tasks.base import Task
from runner.training.checkpoint import Checkpoint, leaves
from runner.training.engines import build_engine
from runner.training.log import Log, summarise
from runner.training.measure import compiled
from runner.training.recorded import Recorded
from runner.training.stability import Stability
from runner.training.stack import check_stack
from runner.training.start import build_adapters, count, weights
from runner.training.step import Step

CHECK_EVERY = 10  # steps between looks at which runs are alive
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
    device = resolve_device(configs[0].device)
    # Of several GPUs a step is recorded on the current one.
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with current, matmul_precision("high" if configs[0].tf32 else "highest"):
        return _train(configs, device, progress, ahead)


def _train(configs: Sequence[Config], device: torch.device, progress: Progress, ahead: int | None) -> list[Outcome]:
    shared, dtype = configs[0], getattr(torch, configs[0].dtype)
    task = build_task(configs).to(device, dtype)
    adapters = build_adapters(configs, task, device, dtype)
    step = Step(configs, task, adapters, device, dtype)
    checkpoint = Checkpoint(configs, step.log.columns)
    checkpoint.engine, engine = build_engine(configs, task, adapters, ahead, checkpoint.begun_by())
    if device.type == "cpu" and not compiled.measure.signatures:
        announce("compiling kernels (or loading them)")
    do = partial(step, engine)
    if device.type == "cuda":
        do = Recorded(do)
    for t in range(checkpoint.restore(step.state), shared.steps + 1):
        checks = t % CHECK_EVERY == 0
        last = t == shared.steps or (checks and not step.stability.any_alive())
        if checks and checkpoint.engine == "fused":
            step.leave_out()
        step.to(t)
        do(step.log.evaluates(shared, t), step.log.has_row(t), last, None if last else step.log.look(shared, t))
        if last and step.subspaces and step.stability.any_alive():
            step.count_intruders()
        progress(t, step.log.losses[t], step.log, step.stability)
        if last:
            break
        if checkpoint.due():
            checkpoint.save(t + 1, step.state)
            if leaves():
                raise KeyboardInterrupt
    exported = task.exports and bool(ADAPTERS[shared.adapter.name].peft)
    keeps = exported if shared.log.weights is None else shared.log.weights
    return _outcomes(step, count(adapters), keeps, checkpoint.engine)


def build_task(configs: Sequence[Config]) -> Task:
    """The base and data that these runs share, on the CPU."""
    return TASKS[configs[0].task.name].build(configs)


def _outcomes(step: Step, sizes: list[int], keeps: bool, engine: str) -> list[Outcome]:
    """Of all runs; `sizes`: how many numbers each trains; `keeps`: whether what they trained is kept."""
    log, ends, alive = step.log, step.stability.ends.tolist(), step.stability.alive.tolist()
    losses, places, outcomes = log.losses.cpu().numpy(), step.runs.tolist(), []
    for k, ((steps, layers), end) in enumerate(zip(log.tables(ends), ends, strict=True)):
        evals = {name: steps[name].to_numpy() for name in log.evals}
        summary = summarise(losses[: end + 1, k], evals, None if alive[k] else end)
        summary["trainable_parameters"] = sizes[k]
        own = weights(step.adapters, places.index(k)) if keeps and alive[k] else None
        status = FINISHED if alive[k] else DIVERGED
        outcomes.append(Outcome(status, steps, summary, layers=layers, weights=own, engine=engine))
    return outcomes

"""The loop: K runs in lockstep on one frozen base. A single run is a stack with K = 1."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from runner import optim
from runner.adapters import ADAPTERS, LoRA
from runner.checks import resolve_device, resolve_engine
from runner.fused import Fused
from runner.inits import INITS
from runner.log import Log, summarise
from runner.metrics import Gauge
from runner.rng import generator
from runner.schema import Config
from runner.store import DIVERGED, FINISHED, Outcome
from runner.tasks import TASKS, Task

LOOK_EVERY = 10  # steps between looks at whether any run is left: each waits for the device
Progress = Callable[[int, Tensor], None]


def train(configs: Sequence[Config], progress: Progress = lambda step, losses: None) -> list[Outcome]:
    """Train K runs that may share a stack (`plan.stack_key`); one outcome each, in order.

    Row t of a run's steps holds the loss, gradients and state at the parameters before update t, and the increments of
    update t; the last row, t = steps, holds the final state and no increments. A run whose loss is not finite or exceeds
    `stability.max_ratio` times its initial loss ends there: nothing later is kept of it, and its neighbours, with which it
    shares no number, go on as if nothing had happened.
    """
    shared = configs[0]
    device, dtype = resolve_device(shared.device), getattr(torch, shared.dtype)
    task = build_task(shared).to(device, dtype)
    adapter = build_adapter(configs, task.W0, device, dtype)
    engine = Fused(task) if resolve_engine(shared) == "fused" else task
    parameters = [p.detach() for p in adapter.parameters.values()]
    optimizer = optim.build([c.optimizer for c in configs], parameters)
    lrs = learning_rates(configs, adapter).to(device)
    max_ratio = torch.tensor([c.stability.max_ratio for c in configs], device=device, dtype=dtype)
    gauge = Gauge(task.probe(shared.probe.size), adapter.scale)

    log = Log(configs, device)
    ends = torch.full((len(configs),), shared.steps, device=device)
    alive = torch.ones(len(configs), dtype=torch.bool, device=device)
    before = [torch.empty_like(p) for p in parameters]
    for step in range(shared.steps + 1):
        losses, gradients = engine.loss_and_grad(adapter, step)
        log.losses[step] = losses
        if step == 0:
            ceiling = max_ratio * losses
        stable = losses.isfinite() & (losses <= ceiling)
        ends = torch.where(alive & ~stable, step, ends)
        alive = alive & stable
        last = step == shared.steps or (step % LOOK_EVERY == 0 and not alive.any())
        if log.evaluates(shared, step):
            log.evals[log.index[step]] = engine.eval_loss(adapter)
        if log.wants(step):
            for kept, p in zip(before, parameters, strict=True):
                kept.copy_(p)
        if not last:
            optimizer.step(gradients, lrs[step])
        if log.wants(step):
            gauge.measure(before, gradients, parameters, log.at(step))
        progress(step, losses)
        if last:
            break
    return _outcomes(log, ends.tolist(), alive.tolist())


def build_task(config: Config) -> Task:
    """The task on the CPU. On one thread, because a library may divide a matrix product, and so round it, by their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return TASKS[config.task.name](config.task, config.seed)
    finally:
        torch.set_num_threads(threads)


def learning_rates(configs: Sequence[Config], adapter: LoRA) -> Tensor:
    """(steps, parameters, K) float64: the scheduled lr of each adapter parameter; `lr_ratio` times it on side B."""
    lrs = optim.learning_rates([c.optimizer for c in configs], configs[0].steps)
    ratios = torch.tensor([c.optimizer.lr_ratio for c in configs], dtype=torch.float64)
    return torch.stack([lrs * ratios if side == "B" else lrs for side in adapter.parameters], dim=1)


def build_adapter(configs: Sequence[Config], W0: Tensor, device: torch.device, dtype: torch.dtype) -> LoRA:
    """K freshly initialized adapters for a layer W0 (n_out, n_in), each drawn from its run's own `init` stream."""
    factors = [
        [c.init.scale * factor for factor in INITS[c.init.name](W0, c.adapter.rank, generator(c.seed, "init"))]
        for c in configs
    ]
    return ADAPTERS[configs[0].adapter.name].stack(factors, [c.adapter.alpha for c in configs], device, dtype)


def _outcomes(log: Log, ends: list[int], alive: list[bool]) -> list[Outcome]:
    losses = log.losses.cpu().numpy()
    outcomes = []
    for k, (frame, end) in enumerate(zip(log.frames(ends), ends, strict=True)):
        summary = summarise(losses[: end + 1, k], frame["eval/loss"].to_numpy(), None if alive[k] else end)
        outcomes.append(Outcome(FINISHED if alive[k] else DIVERGED, frame, summary))
    return outcomes

"""Carry out a list of runs: plan, train stack by stack, store, track; whatever happens, keep what is finished."""

import threading
from collections.abc import Sequence
from functools import partial

from runner.config import Config, ConfigError
from runner.config.experiments import new_name
from runner.config.registry import TRACKERS
from runner.core.machine import interrupt, termination_interrupts
from runner.core.messages import say
from runner.store.claims import UNHEARD
from runner.store.runs import Store
from runner.sweeps.memory import check_fits
from runner.sweeps.plan import plan
from runner.sweeps.results import Results
from runner.sweeps.search import Request, Search, rounds
from runner.sweeps.sweep import Sweep
from runner.training.checkpoint import leave, stay

_sweeping = threading.Lock()


def execute(configs: Sequence[Config], searches: Sequence[Search] = ()) -> Results:
    """Train what is not done yet, and what the searches ask for, and say what became of all of it."""
    request = Request(list(configs), list(searches))
    check_shared(request.configs)
    if not _sweeping.acquire(blocking=False):
        raise RuntimeError("another sweep is under way in this process, which can hold the claims of one at a time")
    try:
        return _execute(request)
    finally:
        _sweeping.release()


def _execute(request: Request) -> Results:
    first, *_ = request.configs
    parted = partial(_parted, threading.current_thread())
    with termination_interrupts(), Store(first.outputs, first.store.claims, parted) as store:
        names = dict.fromkeys(map(new_name, request.configs))
        results = Results()
        sweep: Sweep | None = None
        try:
            for configs in rounds(request, results):
                planned = plan(configs, store)
                check_fits(planned.stacks)
                if sweep is None:
                    for name in filter(None, names):
                        say(name)
                    sweep = Sweep(store, TRACKERS[first.tracker.name](first), results)
                sweep.run(planned)
        except KeyboardInterrupt:  # between two rounds
            if sweep is None:
                raise
            results.interrupted = True
        finally:
            if sweep:
                sweep.close()
            if store.claims.lost:
                stay()
    return results


def _parted(sweeping: threading.Thread) -> None:
    """The folder has not answered for so long that others may train what is ours: end as Ctrl-C does."""
    say(
        f"outputs did not answer for {UNHEARD:g} seconds, after which others may train what was claimed here; the sweep "
        "ends, and the same command goes on with it"
    )
    if sweeping is threading.main_thread():
        interrupt()
    else:  # of a job
        leave()


def check_shared(configs: Sequence[Config]) -> None:
    """Raise ConfigError unless one command can train them: it has one store, one tracker and one executor."""
    if not configs:
        raise ConfigError("the sweep has no runs: one of its axes has no values; give it at least one")
    for name in ("outputs", "bases", "store", "tracker", "executor", "workers", "retrain", "stack", "device", "search"):
        if any(getattr(config, name) != getattr(configs[0], name) for config in configs):
            raise ConfigError(f"{name}: must be the same for all runs of a sweep; run one command for each")

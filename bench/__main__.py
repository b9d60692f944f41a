"""Time per run and step on teacher_student: a plain PyTorch loop, one run at a time, and a stack; metrics off and on.

All contestants do the same work from the same starting point, in turn (A B C A B C …); the best of the rounds is reported,
because on a shared machine the disturbances only ever add time.
"""

import argparse
import time
from collections.abc import Callable
from itertools import product
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from runner.config import CONF, from_hydra, register
from runner.machine import keep_freed_memory
from runner.plan import plan
from runner.schema import Config
from runner.store import Store
from runner.tasks.teacher_student import TeacherStudent
from runner.train import build_adapter, train

METRICS_OFF = ["log.every=1000000", "eval.every=1000000"]  # the first and the last step remain


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    register()
    keep_freed_memory()
    rows = [measure(width, options.steps, options.rounds) for width in options.widths]
    print(f"ms per run and step, {torch.get_num_threads()} threads, best of {options.rounds} rounds")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


def measure(width: int, steps: int, rounds: int) -> dict[str, str | float]:
    """One row: milliseconds per run and step of every contestant, and the ratios of interest."""
    on, off = runs(width, steps), runs(width, steps, *METRICS_OFF)
    contestants: dict[str, tuple[Callable[[], object], int]] = {
        "plain loop": (lambda: plain_loop(off[0]), 1),
        "alone, metrics off": (lambda: train(off[:1]), 1),
        "stack, metrics off": (lambda: train(off), len(off)),
        "stack, metrics on": (lambda: train(on), len(on)),
    }
    best = dict.fromkeys(contestants, float("inf"))
    for _, (name, (work, count)) in product(range(rounds), contestants.items()):
        start = time.perf_counter()
        work()
        best[name] = min(best[name], (time.perf_counter() - start) / (count * steps) * 1e3)
    return {
        "n": str(width),  # text, so that the table does not round it
        "runs a stack": str(len(off)),
        **best,
        "plain / stack off": best["plain loop"] / best["stack, metrics off"],
        "on / off": best["stack, metrics on"] / best["stack, metrics off"],
    }


def runs(width: int, steps: int, *overrides: str) -> list[Config]:
    """The first stack that the planner would make of 28 runs (init × lr)."""
    configs = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for init, k in product(("gaussian_A", "gaussian_B"), range(14)):
            each = [
                f"task.width={width}",
                f"steps={steps}",
                f"init={init}",
                f"optimizer.lr={2.0 ** -(k + 4)}",
                *overrides,
            ]
            configs.append(from_hydra(compose("config", overrides=each)))
    with TemporaryDirectory() as empty:
        return plan(configs, Store(empty)).stacks[0]


def plain_loop(config: Config) -> Tensor:
    """What one would write without this project: the whole student forward at every step, torch.optim, no metrics."""
    task = TeacherStudent(config.task, config.seed)
    adapter = build_adapter([config], task.W0, torch.device("cpu"), torch.float32)
    A, B = (p.detach()[0].clone().requires_grad_() for p in (adapter.A, adapter.B))
    optimizer = torch.optim.AdamW([A, B], config.optimizer.lr, weight_decay=0.0)
    Z, target, W_h, W_out = task.train.Z, task.train.target, task.W0, task.W_out
    Y_in = task.train.y0 - Z @ W_h.T
    for _ in range(config.steps):
        y = Y_in + Z @ W_h.T + Z @ A.T @ B.T
        loss = (y.relu() @ W_out - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()


if __name__ == "__main__":
    main()

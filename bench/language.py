"""Language models: our stacks and the loop that one would write with PEFT and torch.optim, on the same model and batches.

`python -m bench.language CONTESTANT WIDTH STEPS THREADS` times one contestant in a process of its own, which is how two are
timed side by side with a thread each.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from itertools import product
from time import perf_counter
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from bench.ceilings import best
from bench.contestants import Tick, engine, measured
from runner.config import Config
from runner.config.compose import CONF, from_hydra, register
from runner.config.identity import with_values
from runner.config.resources import resolve_device
from runner.core.machine import keep_freed_memory, use_threads
from runner.tasks.finetuning import ModelTask
from runner.tasks.models.bases import token_losses
from runner.training.start import build_adapters
from runner.training.train import build_task

RUNS = 16
WIDTHS = [64, 128, 256]
NEVER = 10**6


@cache
def configs(width: int) -> list[Config]:
    """A grid init × lr of one seed, on an llama_tiny that was not pretrained: what it says makes no step faster."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [
            "task=language_model",
            f"task.width={width}",
            "task.pretrain_steps=0",
            "device=cpu",
            "eval.every=1000000",
        ]
        pair = [
            from_hydra(compose("config", overrides=[*overrides, f"init={i}"])) for i in ("gaussian_A", "gaussian_B")
        ]
    lrs = [2.0 ** (-k / 2 - 8) for k in range(RUNS // 2)]
    return [with_values(config, {"optimizer.lr": lr}) for lr, config in product(lrs, pair)]


def peft(configs: Sequence[Config], tick: Tick) -> Tensor:
    """The first run: adapters of PEFT in the model, autograd, torch.optim, and the same metrics of every layer."""
    config = configs[0]
    device = resolve_device(config.device)
    task = build_task(configs[:1]).to(device, torch.float32)
    adapters, probe = build_adapters(configs[:1], task, device, torch.float32), task.probe(config.probe.size)
    own = config.adapter
    lora = LoraConfig(r=own.rank, lora_alpha=own.alpha, target_modules=list(task.layers), use_dora=own.name == "dora")
    model = inject_adapter_in_model(lora, task.model).eval()
    model.to(device)
    modules, factors = dict(model.named_modules()), {}
    for name in task.layers:
        factors[name] = [getattr(modules[name], f"lora_{side}")["default"].weight for side in "AB"]
        if own.name == "dora":
            factors[name].append(modules[name].lora_magnitude_vector["default"].weight)
        for p, start in zip(factors[name], adapters[name].parameters.values(), strict=True):
            p.data.copy_(start.detach()[0])
            p.requires_grad_()
    o = config.optimizer
    parameters = [p for pair in factors.values() for p in pair]
    betas = o.beta1, o.beta2
    optimizer = torch.optim.AdamW(parameters, lr=o.lr, betas=betas, eps=o.eps, weight_decay=o.weight_decay)
    rows: list[dict[str, Tensor]] = []
    for step in range(config.steps):
        tokens = task.training.tokens[task.order.at(step)[0].to(device)].long()
        loss = token_losses(model(input_ids=tokens, use_cache=False).logits, tokens).mean()
        optimizer.zero_grad()
        loss.backward()
        before = {name: [p.detach().clone() for p in pair] for name, pair in factors.items()}
        optimizer.step()
        if config.log.every == 1:
            rows += [
                _measure(before[name], pair, adapters[name].scale, probe[name].Z) for name, pair in factors.items()
            ]
        tick()
    return loss.detach()[None]


def _measure(before: list[Tensor], pair: list[Tensor], scale: Tensor, probe: Tensor) -> dict[str, Tensor]:
    old, gradients, new = ([t.detach()[None] for t in ts] for ts in (before, [p.grad for p in pair], pair))
    updates = [n - o for n, o in zip(new, old, strict=True)]
    return measured(*old, *gradients, *updates, scale, probe[None])


OFF = {"log.every": NEVER}
# Name -> (loop, values of its configurations, runs).
CONTESTANTS = {
    "PEFT": (peft, {}, 1),
    "PEFT, bare": (peft, OFF, 1),
    "autograd": (engine, {"engine": "autograd"}, RUNS),
    "compiled": (engine, {"engine": "compiled"}, RUNS),
    "compiled, bare": (engine, {"engine": "compiled"} | OFF, RUNS),
}
OURS = [name for name, (loop, *_) in CONTESTANTS.items() if loop is engine]
SIDE_BY_SIDE = ["PEFT, bare", "compiled"]  # which are also timed as two processes of a thread each


def entries(width: int) -> dict[str, tuple[Any, list[Config]]]:
    """Name -> loop, and the runs that it trains."""
    return {
        name: (loop, [with_values(config, values) for config in configs(width)[:runs]])
        for name, (loop, values, runs) in CONTESTANTS.items()
    }


def side_by_side(name: str, width: int, steps: int) -> float:
    """Milliseconds per run and step of two processes with a thread each, together."""
    command = [sys.executable, "-m", "bench.language", name, str(width), str(steps), "1"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    seconds = [json.loads(process.communicate()[0]) for process in processes]
    return 1e3 * sum(seconds) / len(seconds) / (CONTESTANTS[name][2] * len(processes))


def flops(config: Config, task: ModelTask) -> float:
    """Of one run's step, in the products with frozen weights and with the factors, and no more.

    A frozen weight meets every token forward, and backward but for the layers that read the embeddings; a factor meets them
    once forward and twice backward.
    """
    tokens = config.task.batch_size * config.task.sequence_length
    first = [
        name
        for name in task.layers
        if ".layers.0." in name and name.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj")
    ]
    head = config.task.width * 256
    frozen = 2 * (head + sum(W.numel() for W in task.layers.values())) - sum(
        task.layers[name].numel() for name in first
    )
    factors = 3 * config.adapter.rank * sum(sum(W.shape) for W in task.layers.values())
    return 2.0 * tokens * (frozen + factors)


def matmul_flops_per_second() -> float:
    """float32, all threads."""
    a, b = torch.randn(2048, 1024), torch.randn(1024, 1024)
    return 2 * 2048 * 1024 * 1024 / best(lambda: a @ b)


def table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Two rows a width: one process with all threads, and two with one each, as a sweep's workers have: milliseconds, and ratios
    to bare PEFT with their least and largest over the rounds."""
    rows = []
    for row in result["language_models"]:
        for threads, times in (("one process", row["ms"]), ("2 × 1 thread", row["side by side"])):
            ms = {name: min(times[name]) if name in times else None for name in CONTESTANTS}
            raced = [name for name in ("autograd", "compiled") if name in times]
            rows.append(
                {"n": str(row["n"]), "threads": threads}
                | ms
                | {f"bare PEFT / {name}": ratio(times["PEFT, bare"], times[name]) for name in raced}
                | {
                    "metrics on / off": ms["compiled"] / ms["compiled, bare"] if ms["compiled, bare"] else None,
                    "share of matmul peak": row["flops"] / (ms["compiled"] / 1e3) / result["matmul_flops_per_second"],
                    "MB, compiled": round(row["MB"]["compiled"]),
                }
            )
    return rows


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Of the best times, and the range of those of single rounds."""
    rounds = [a / b for a, b in zip(theirs, ours, strict=False)]
    return f"{min(theirs) / min(ours):.2f} ({min(rounds):.2f}–{max(rounds):.2f})"


def main() -> None:
    """Seconds per step of a contestant, from the end of the first step to the end of the last."""
    name, (width, steps, threads) = sys.argv[1], map(int, sys.argv[2:])
    register()
    use_threads(threads)
    keep_freed_memory()
    ticks: list[float] = []
    loop, runs = entries(width)[name]
    loop([with_values(c, {"steps": steps}) for c in runs], lambda: ticks.append(perf_counter()))
    print((ticks[-1] - ticks[0]) / (steps - 1))


if __name__ == "__main__":
    main()

"""`python -m bench`: our engines and what one would use instead, side by side on teacher_student; writes outputs/bench.json.

All do the same work in turn (A B C A B C …), and the best of the rounds counts, because on a shared machine disturbances
only ever add time.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from hydra import compose, initialize_config_dir

import runner.training.train
from analysis.report import put_between
from bench import ceilings, contestants, costs, language, loading, overhead, quick, real, variants
from bench.language import NEVER, OFF
from bench.memory import peak, resident
from bench.report import report
from runner.config import Config
from runner.config.compose import CONF, from_hydra, register
from runner.config.identity import with_values
from runner.core import streams
from runner.core.machine import keep_freed_memory, use_threads
from runner.sweeps.plan import stacks

START, END = "<!-- bench: written by `make bench` -->", "<!-- end of bench -->"
RUNS = 28  # init × lr: what the paper's grid has for one width and seed
WIDTHS = [128, 256, 512, 1024, 2048, 4096, 8192]
STACKS = [1, 4, 16, 64]
STACK_WIDTHS = [128, 1024, 8192]
LEAST, MOST = 3, 400  # steps a turn
SLOW = 2  # a contestant that has had this many times its share of time sits out, after two rounds
ROOM = 2**30  # bytes of a layer output beyond which vmap, which keeps several, is not tried


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--models", type=int, nargs="*", default=language.WIDTHS, help="widths of the language models")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="a few ratios only, beside those that were kept (2 minutes)"
    )
    parser.add_argument("--keep", action="store_true", help="with --quick: keep these ratios, as those to compare with")
    parser.add_argument(
        "--seconds", type=float, default=0.25, help="that a turn takes, where three steps do not take more"
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--publish", type=Path, help="also write the tables between the markers of this file")
    options = parser.parse_args()
    prepare()
    if options.quick:
        print(quick.report(quick.measure(by_width, race), options.keep))
        return
    widths, ceiling, bandwidth = [], [], []
    for width in options.widths:
        widths.append(by_width(width, options.rounds, options.seconds))
        ceiling.append(ceilings.multiply_adds_per_second())  # again and again: it can be disturbed, too
        bandwidth.append(ceilings.bytes_per_second())
    result = {
        "threads": torch.get_num_threads(),
        "multiply_adds_per_second": max(ceiling),
        "bytes_per_second": max(bandwidth),
        "widths": widths,
        "stacks": [
            by_stack(width, runs, max(1, options.rounds // 2), options.seconds)
            for width, runs in product([w for w in STACK_WIDTHS if w in options.widths], STACKS)
        ],
        "language_models": [by_language_model(width, options.rounds, options.seconds) for width in options.models],
        "matmul_flops_per_second": language.matmul_flops_per_second(),
        "costs": costs.measure(race, 2, 2 * options.seconds),
        "real": real.measure(),
        "variants": variants.measure(race, 2, 2 * options.seconds),
        "overhead": overhead.measure(),
        "loading": loading.measure(),
    }
    options.outputs.mkdir(exist_ok=True)
    (options.outputs / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report(result)
    print(text)
    if options.publish:
        put_between(options.publish, START, END, text)


def prepare() -> None:
    """This process trains many times on the same few bases: it builds each once, and keeps its memory."""
    register()
    use_threads(torch.get_num_threads())
    keep_freed_memory()
    build = runner.training.train.build_task
    bases: dict[int, Any] = {}

    def kept(configs: Sequence[Config]) -> Any:
        width = configs[0].task.width
        if configs[0].task.name != "teacher_student":
            return build(configs)
        if width not in bases:
            bases.clear()
            bases[width] = build(configs)
        return bases[width]

    runner.training.train.build_task = contestants.build_task = kept


def by_width(width: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Every contestant at one width; our general engine with as many of the runs as the planner gives a stack."""
    all_runs = configs(width, RUNS)
    general = stacks([with_values(c, {"engine": "autograd"}) for c in all_runs])[0]
    work = {
        "multiply_adds": ceilings.multiply_adds(all_runs[0]),
        "bytes": ceilings.bytes_moved(all_runs[0], RUNS),
    }
    return {"n": width, "runs": RUNS, "general_stack": len(general), **work} | race(
        {
            "plain loop": (contestants.plain_loop, all_runs[:1]),
            "plain loop, no metrics": (contestants.plain_loop, off(all_runs[:1])),
            "PEFT": (contestants.peft, all_runs[:1]),
            "vmap": (contestants.vmap, all_runs),
            "general": (contestants.engine, general),
            "fused": (contestants.engine, all_runs),
            "fused, no metrics": (contestants.engine, off(all_runs)),
        },
        rounds,
        seconds,
    )


def by_stack(width: int, runs: int, rounds: int, seconds: float) -> dict[str, Any]:
    """What a stack gains from its size."""
    all_runs = configs(width, runs)
    general = stacks([with_values(c, {"engine": "autograd"}) for c in all_runs])[0]
    entries = {"general": (contestants.engine, general), "fused": (contestants.engine, all_runs)}
    if runs * width * all_runs[0].task.train_points * 4 <= ROOM:
        entries["vmap"] = (contestants.vmap, all_runs)
    return {"n": width, "runs": runs, "general_stack": len(general)} | race(entries, rounds, seconds)


def by_language_model(width: int, rounds: int, seconds: float) -> dict[str, Any]:
    """PEFT's loop and ours in this process, and each in two processes with a thread, as a sweep's workers have."""
    runs = language.configs(width)
    task = contestants.build_task(runs[:1])
    entries = language.entries(width)
    times: dict[str, list[float]] = {name: [] for name in language.SIDE_BY_SIDE}
    for _, name in product(range(2), times):
        steps = max(LEAST, round(10 * seconds / (width / 64) * (5 if name in language.OURS else 40)))
        times[name].append(language.side_by_side(name, width, steps))
    return {"n": width, "flops": language.flops(runs[0], task), "side by side": times} | race(entries, 3, 4 * seconds)


@cache
def configs(width: int, runs: int) -> list[Config]:
    """The first runs of a grid init × lr that ends before anything diverges."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        pair = [
            from_hydra(compose("config", overrides=[f"task.width={width}", f"init={init}", "device=cpu"]))
            for init in ("gaussian_A", "gaussian_B")
        ]
    lrs = [2.0 ** (-k / 2 - 7) for k in range(-(-runs // 2))]
    grid = [with_values(config, {"optimizer.lr": lr, "eval.every": NEVER}) for lr, config in product(lrs, pair)]
    return grid[:runs]


def off(runs: Iterable[Config]) -> list[Config]:
    return [with_values(config, OFF) for config in runs]


def race(
    entries: dict[str, tuple[Callable[[Sequence[Config], contestants.Tick], object], list[Config]]],
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """{"ms": {name: milliseconds per run and step in each round}, "MB": {name: memory beyond what was there before}}."""
    steps, times, memory = {}, {name: [] for name in entries}, {}
    for name, (contestant, runs) in entries.items():  # to compile, to count memory, and to see how long a step takes
        before = resident()
        step = turn(contestant, runs, LEAST)
        memory[name] = (peak() - before) / 1e6
        steps[name] = min(MOST, max(LEAST, round(seconds / step)))
    for _, (name, (contestant, runs)) in product(range(rounds), entries.items()):
        spent = sum(times[name]) * len(runs) * steps[name] / 1e3
        if spent < rounds * seconds * SLOW or len(times[name]) < 2:
            times[name].append(turn(contestant, runs, steps[name]) / len(runs) * 1e3)
    return {"ms": times, "MB": memory}


def turn(contestant: Callable[..., object], runs: list[Config], steps: int) -> float:
    """Seconds per step, from the end of the first to the end of the last."""
    ticks: list[float] = []
    contestant([with_values(config, {"steps": steps}) for config in runs], lambda: ticks.append(perf_counter()))
    return (ticks[-1] - ticks[0]) / (steps - 1)


if __name__ == "__main__":
    streams.prepare()
    main()

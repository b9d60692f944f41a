"""`python -m bench`: our engines and what one would use instead, side by side on teacher_student; writes outputs/bench.json.

All do the same work in turn (A B C A B C …), and the best of the rounds counts, because on a shared machine disturbances
only ever add time.
"""

import argparse
import ctypes
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import psutil
import torch
from hydra import compose, initialize_config_dir

import runner.train
from analysis.report import put_between
from bench import ceilings, contestants, overhead
from runner.config import CONF, from_hydra, register, with_values
from runner.machine import keep_freed_memory, use_threads
from runner.plan import stacks
from runner.schema import Config

START, END = "<!-- bench: written by `make bench` -->", "<!-- end of bench -->"
NEVER = 10**6
OFF = {"log.every": NEVER}
RUNS = 28  # init × lr: what the paper's grid has for one width and seed
WIDTHS = [128, 256, 512, 1024, 2048, 4096, 8192]
STACKS = [1, 4, 16, 64]
STACK_WIDTHS = [128, 1024, 8192]
LEAST, MOST = 3, 400  # steps a turn
ROOM = 2**30  # bytes of a layer output beyond which vmap, which keeps several, is not tried


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="that a turn takes, where three steps do not take more"
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--readme", type=Path, help="also write the tables between the markers of this file")
    options = parser.parse_args()
    prepare()
    result = {
        "threads": torch.get_num_threads(),
        "multiply_adds_per_second": ceilings.multiply_adds_per_second(),
        "bytes_per_second": ceilings.bytes_per_second(),
        "widths": [by_width(width, options.rounds, options.seconds) for width in options.widths],
        "stacks": [
            by_stack(width, runs, options.rounds, options.seconds)
            for width, runs in product([w for w in STACK_WIDTHS if w in options.widths], STACKS)
        ],
        "overhead": overhead.measure(),
    }
    options.outputs.mkdir(exist_ok=True)
    (options.outputs / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report(result)
    print(text)
    if options.readme:
        put_between(options.readme, START, END, text)


def prepare() -> None:
    """This process trains many times on the same few bases: it builds each once, and keeps its memory."""
    register()
    use_threads(torch.get_num_threads())
    keep_freed_memory()
    build = runner.train.build_task
    bases: dict[int, Any] = {}

    def kept(config: Config) -> Any:
        if config.task.width not in bases:
            bases.clear()
            bases[config.task.width] = build(config)
        return bases[config.task.width]

    runner.train.build_task = contestants.build_task = kept


def by_width(width: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Every contestant at one width; our general engine with as many of the runs as the planner gives a stack."""
    all_runs = configs(width, RUNS)
    general = stacks([with_values(c, {"engine": "autograd"}) for c in all_runs])[0]
    return {"n": width, "general_stack": len(general)} | race(
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
        times[name].append(turn(contestant, runs, steps[name]) / len(runs) * 1e3)
    return {"ms": times, "MB": memory}


def turn(contestant: Callable[..., object], runs: list[Config], steps: int) -> float:
    """Seconds per step, from the end of the first to the end of the last."""
    ticks: list[float] = []
    contestant([with_values(config, {"steps": steps}) for config in runs], lambda: ticks.append(perf_counter()))
    return (ticks[-1] - ticks[0]) / (steps - 1)


def resident() -> int:
    """Bytes that this process holds now, once what is free has been given back; where Linux allows, sets the peak to it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        pass
    return psutil.Process().memory_info().rss


def peak() -> float:
    """Bytes at the peak since `resident`; nan where the system does not say."""
    try:
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    except (OSError, ValueError):
        return float("nan")
    return int(line.split()[1]) * 1024


def report(result: dict[str, Any]) -> str:
    """The tables in Markdown."""

    def ms(row: dict[str, Any], name: str) -> float | None:
        return min(row["ms"][name]) if name in row["ms"] else None

    def table(rows: list[dict[str, Any]]) -> str:
        frame = pd.DataFrame(rows).astype(object)
        return frame.where(frame.notna(), None).to_markdown(index=False, floatfmt=".3g", missingval="–", disable_numparse=[0])

    def efficiency(row: dict[str, Any]) -> dict[str, Any]:
        [config, *_] = configs(row["n"], RUNS)
        seconds = ms(row, "fused") / 1e3
        return {
            "n": str(row["n"]),
            "plain / fused": ms(row, "plain loop") / ms(row, "fused"),
            "plain / general": ms(row, "plain loop") / ms(row, "general"),
            "fused, metrics on / off": ms(row, "fused") / ms(row, "fused, no metrics"),
            "share of multiply-adds": ceilings.multiply_adds(config) / seconds / result["multiply_adds_per_second"],
            "share of bandwidth": ceilings.bytes_moved(config, RUNS) / seconds / result["bytes_per_second"],
            **{f"MB, {name}": round(row["MB"][name]) for name in ("plain loop", "PEFT", "vmap", "general", "fused")},
        }

    widths, by_stacks = result["widths"], result["stacks"]
    return "\n\n".join(
        [
            f"Milliseconds per run and step, {result['threads']} threads; {RUNS} runs a stack (general: in brackets):",
            table(
                [
                    {"n": str(row["n"])}
                    | {name: ms(row, name) for name in row["ms"]}
                    | {"general": f"{ms(row, 'general'):.3g} ({row['general_stack']})"}
                    for row in widths
                ]
            ),
            f"Ratios; shares of the {result['multiply_adds_per_second'] / 1e9:.0f} billion multiply-adds and "
            f"{result['bytes_per_second'] / 1e9:.0f} GB a second that this machine reached; memory at the peak:",
            table([efficiency(row) for row in widths]),
            "Milliseconds per run and step against the runs a stack:",
            table(
                [
                    {"n": str(row["n"]), "runs": str(row["runs"])}
                    | {name: ms(row, name) for name in ("vmap", "general", "fused")}
                    for row in by_stacks
                ]
            ),
            "Overhead: milliseconds a tiny run takes in a sweep:",
            table(result["overhead"]),
        ]
    )


if __name__ == "__main__":
    main()

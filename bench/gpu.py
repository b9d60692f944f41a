"""`python -m bench.gpu`: stacks on a GPU, and the loop that one would write with PEFT on the same card; prints tables.

Times are of the device: it is waited for before the first step that counts and after the last.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tabulate import tabulate
from transformers import AutoModelForCausalLM, LlamaConfig

import runner.training.train
from bench import contestants, language
from bench.__main__ import configs as toys
from bench.language import NEVER, OFF
from runner.config import Config
from runner.config.compose import register
from runner.config.identity import with_values
from runner.core.machine import use_threads
from runner.tasks.models.packages import MODELS
from runner.tasks.models.spec import BYTES

WARM = 12  # steps before time counts: on the first few, kernels are loaded and steps recorded
# The shape of SmolLM2-135M; its weights are random, which makes no product faster, and its tokens bytes.
SMOLLM2 = LlamaConfig(**{k: v for k, v in MODELS["smollm2"].described.items() if k != "model_type"}, tokens=BYTES)


@dataclass(frozen=True)
class Contest:
    """Loops on the same runs: PEFT's trains the first of them, ours all."""

    name: str
    runs: list[Config]
    peft: Callable[..., Any]
    steps: int  # of PEFT's loop that are timed; of ours, half as many


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", default="", help="contests whose name holds this")
    parser.add_argument("--outputs", type=Path, help="a folder for gpu.json")
    options = parser.parse_args()
    register()
    use_threads(torch.get_num_threads())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for contest in contests(Path(folder), options.steps):
            if options.only in contest.name:
                rows.append(race(contest, options.rounds))
                print(json.dumps(rows[-1]), flush=True)
    print(torch.cuda.get_device_name(), torch.__version__)
    print(tabulate(rows, headers="keys", floatfmt=".3g"))
    if options.outputs:
        (options.outputs / "gpu.json").write_text(json.dumps(rows, indent=1) + "\n")


def contests(folder: Path, steps: int) -> Iterator[Contest]:
    """Toys and Llamas of 64 runs, and a model of SmolLM2's shape with 16."""
    for width in (128, 1024, 8192):
        yield Contest(f"toy, n = {width}", on_gpu(toys(width, 64)), contestants.peft, steps)
    for width in (64, 128, 256):
        runs = on_gpu(language.configs(width)) * 4
        yield Contest(f"llama_tiny, n = {width}", distinct(runs), language.peft, steps)
    model = AutoModelForCausalLM.from_config(SMOLLM2)
    model.save_pretrained(folder / "model")
    own = {"task.width": SMOLLM2.hidden_size, "task.layers": SMOLLM2.num_hidden_layers}
    own["task.model"] = str(folder / "model")
    runs = [with_values(config, own) for config in on_gpu(language.configs(64))]
    yield Contest("135M, all-linear", runs, language.peft, steps // 3)
    yield Contest("135M, all-linear, TF32", [with_values(c, {"tf32": True}) for c in runs], language.peft, steps // 3)


def on_gpu(runs: Sequence[Config]) -> list[Config]:
    return [with_values(config, {"device": "cuda", "engine": "auto"}) for config in runs]


def distinct(runs: Sequence[Config]) -> list[Config]:
    """With rates of their own."""
    return [with_values(config, {"optimizer.lr": 1e-3 * 0.97**k}) for k, config in enumerate(runs)]


def race(contest: Contest, rounds: int) -> dict[str, Any]:
    """Milliseconds per run and step, the best of the rounds; ratios of these."""
    runs, few = contest.runs, contest.steps // 2
    bare = [with_values(config, OFF) for config in runs]
    entries = {
        "PEFT": lambda: turn(contest.peft, runs[:1], contest.steps),
        "PEFT, bare": lambda: turn(contest.peft, bare[:1], contest.steps),
        "one by one": lambda: turn(launched_one_by_one, runs, few),
        "recorded": lambda: turn(contestants.engine, runs, few),
        "recorded, bare": lambda: turn(contestants.engine, bare, few),
    }
    times: dict[str, list[float]] = {name: [] for name in entries}
    memory = {}
    for _ in range(rounds):
        for name, entry in entries.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            times[name].append(entry())
            memory[name] = torch.cuda.max_memory_reserved() / 1e9
    ms = {name: min(of) for name, of in times.items()}
    return {
        "": contest.name,
        "runs": len(runs),
        **ms,
        "PEFT / recorded": ms["PEFT"] / ms["recorded"],
        "bare / recorded": ms["PEFT, bare"] / ms["recorded"],
        "metrics on / off": ms["recorded"] / ms["recorded, bare"],
        "GB, recorded": memory["recorded"],
    }


def launched_one_by_one(runs: Sequence[Config], tick: contestants.Tick) -> object:
    """Ours, as it is where a step cannot be recorded."""
    with _replaced("Recorded", lambda step: step):
        return contestants.engine(runs, tick)


@contextmanager
def _replaced(name: str, value: Any) -> Iterator[None]:
    there = getattr(runner.training.train, name)
    setattr(runner.training.train, name, value)
    try:
        yield
    finally:
        setattr(runner.training.train, name, there)


def turn(contestant: Callable[..., object], runs: Sequence[Config], steps: int) -> float:
    """Milliseconds per run and step."""
    ticks: list[float] = []

    def tick() -> None:
        if len(ticks) in (WARM, WARM + steps):
            torch.cuda.synchronize()
        ticks.append(perf_counter())

    values = {"steps": WARM + steps + 1, "eval.every": NEVER}
    contestant([with_values(config, values) for config in runs], tick)
    return 1e3 * (ticks[WARM + steps] - ticks[WARM]) / steps / len(runs)


if __name__ == "__main__":
    main()

"""SmolLM2 (135M, 30 layers), its query and value projections adapted, 4 × 64 tokens a step: PEFT's loop, and stacks of 4.

Such a step takes seconds, so that the steps of one turn are the rounds. Loading is not among them; it is told in steps.
"""

from itertools import pairwise
from time import perf_counter
from typing import Any

from hydra import compose, initialize_config_dir

from bench import contestants, language
from bench.language import NEVER, OFF, ratio
from bench.memory import peak, resident
from runner.config import Config
from runner.config.compose import CONF, from_hydra
from runner.config.identity import with_values
from runner.sweeps.memory import bytes_of_stack

RUNS = 4
STEPS = 4  # the first of which does not count
BFLOAT16 = {"task.base_dtype": "bfloat16"}
CONTESTANTS = {  # as in `language`
    "PEFT": (language.peft, {}, 1),
    "PEFT, bare": (language.peft, OFF, 1),
    "stack": (contestants.engine, {}, RUNS),
    "stack, bare": (contestants.engine, OFF, RUNS),
    "stack, bfloat16 base": (contestants.engine, BFLOAT16, RUNS),
}


def configs() -> list[Config]:
    shape = ["task.sequence_length=64", "task.batch_size=4", f"eval.every={NEVER}", f"steps={STEPS}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = from_hydra(compose("config", overrides=["task=smollm2", "device=cpu", "engine=autograd", *shape]))
    return [with_values(config, {"optimizer.lr": 1e-3 * 0.9**k}) for k in range(RUNS)]


def measure() -> dict[str, Any]:
    """{"ms": {name: per run, of each step}, "start": steps that a stack's start takes, "MB", "told MB": a stack's memory}."""
    times, start, taken = {}, 0.0, 0.0
    for name, (loop, values, runs) in CONTESTANTS.items():
        some, ticks = [with_values(config, values) for config in configs()[:runs]], [perf_counter()]
        before = resident()
        loop(some, lambda ticks=ticks: ticks.append(perf_counter()))
        steps = [b - a for a, b in pairwise(ticks)]
        times[name] = [1e3 * seconds / runs for seconds in steps[1:]]
        if name == "stack":
            start, taken = (steps[0] - min(steps[1:])) / (min(steps[1:]) / runs), (peak() - before) / 1e6
    return {"ms": times, "start": start, "MB": taken, "told MB": bytes_of_stack(configs()) / 1e6}


def table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a contestant."""
    bare = result["ms"]["PEFT, bare"]
    return [
        {"": name, "ms per run and step": min(of), "bare PEFT / it": ratio(bare, of)}
        for name, of in result["ms"].items()
    ]


def sentence(result: dict[str, Any]) -> str:
    return (
        f"A stack of {RUNS} starts (model, folding check, probe, first evaluation) in the time of {result['start']:.1f} steps of "
        f"a run, and takes {result['MB']:.0f} MB; the command says {result['told MB']:.0f} MB beforehand."
    )

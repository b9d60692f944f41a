"""What a step of a language model costs against the runs of a stack and the length of its sequences; and exponents of that."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import contestants, language
from bench.language import OFF
from runner.config.identity import with_values

WIDTH = 64
RUNS = (1, 4, 16, 64)
LENGTHS = (32, 64, 128, 256, 512)


def measure(race: Any, rounds: int, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """By the stack: our loops; by the length: a stack of 16, and bare PEFT."""
    ours = [with_values(config, {"engine": "autograd"}) for config in language.configs(WIDTH)]
    by_runs = []
    for runs in RUNS:
        some = (ours * -(-runs // len(ours)))[:runs]
        by_runs.append({"runs": runs} | race({"autograd": (contestants.engine, some)}, rounds, seconds))
    by_length = []
    for length in LENGTHS:
        some = [with_values(config, {"task.sequence_length": length}) for config in ours]
        bare = [with_values(some[0], OFF)]
        entries = {"PEFT, bare": (language.peft, bare), "autograd": (contestants.engine, some)}
        by_length.append({"tokens": length} | race(entries, rounds, seconds))
    return {"runs": by_runs, "tokens": by_length}


def table(rows: Sequence[dict[str, Any]], size: str) -> list[dict[str, Any]]:
    """A row a size: milliseconds per run and step, the best of the rounds; then the exponents."""
    best = [{size: str(row[size])} | {name: min(times) for name, times in row["ms"].items()} for row in rows]
    sizes = [row[size] for row in rows]
    return [*best, {size: "exponent"} | {name: exponent(sizes, [b[name] for b in best]) for name in rows[0]["ms"]}]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """p of cost ∝ size^p, by least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])

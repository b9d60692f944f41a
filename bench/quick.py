"""A few ratios in half a minute, beside those that were kept: a change that costs 30% is seen and said. Nothing fails by time."""

import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench import contestants, language
from bench.language import OFF
from runner.config.identity import with_values

KEPT = Path(__file__).with_name("quick.json")
LOSS = 0.3  # of a ratio, that is pointed out
WIDTHS, ROUNDS, SECONDS = (128, 1024), 3, 0.25


def measure(by_width: Any, race: Any) -> dict[str, float]:
    """Name -> how many times as fast ours is as what one would use instead; the best of a few rounds each."""
    ratios = {}
    for width in WIDTHS:
        best = _best(by_width(width, ROUNDS, SECONDS))
        ratios[f"toy, n = {width}: plain loop / fused"] = best["plain loop"] / best["fused"]
        ratios[f"toy, n = {width}: plain loop / autograd"] = best["plain loop"] / best["general"]
        ratios[f"toy, n = {width}: metrics off / on"] = best["fused, no metrics"] / best["fused"]
    runs = [with_values(config, {"engine": "autograd"}) for config in language.configs(64)]
    entries = {"PEFT": (language.peft, [with_values(runs[0], OFF)]), "autograd": (contestants.engine, runs)}
    best = _best(race(entries, ROUNDS, 2 * SECONDS))
    ratios["llama_tiny, n = 64: bare PEFT / autograd"] = best["PEFT"] / best["autograd"]
    return ratios


def report(ratios: dict[str, float], keep: bool = False) -> str:
    """The ratios beside those that were kept; `keep`: these are, from now on."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    rows = []
    for name, ratio in ratios.items():
        change = ratio / kept[name] - 1 if name in kept else None
        rows.append([name, ratio, kept.get(name), change, "LOST" if change is not None and change < -LOSS else ""])
    if keep:
        KEPT.write_text(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}, indent=1) + "\n")
    lost = sum(row[-1] == "LOST" for row in rows)
    table = tabulate(rows, ["ratio", "now", "kept", "change", ""], floatfmt=("", ".2f", ".2f", "+.0%", ""))
    return f"{table}\n\n{lost} of {len(rows)} lost more than {LOSS:.0%}; other processors have other ratios"


def _best(result: dict[str, Any]) -> dict[str, float]:
    return {name: min(times) for name, times in result["ms"].items()}

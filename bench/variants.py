"""Adapters beside each other: stacks of LoRA, DoRA and VeRA at one rank, PEFT's DoRA, and the memory that DoRA takes."""

from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir

from bench import contestants, language
from runner.config import Config
from runner.config.compose import CONF, from_hydra
from runner.config.identity import with_values
from runner.sweeps.plan import stacks

NEVER = 10**6
WIDTH, RANK, RUNS = 256, 4, 16
WIDE = 4096  # where memory is measured: there a dense change of a weight is large beside the outputs of a batch
STARTS = {"lora": "gaussian_A", "dora": "gaussian_A", "vera": "vera_b0"}
PLACES = {
    "toy, fused": ["task=teacher_student", "engine=fused", f"task.width={WIDTH}"],
    "toy, autograd": ["task=teacher_student", "engine=autograd", f"task.width={WIDTH}"],
    "language model, n = 64": ["task=language_model", "engine=autograd", "task.pretrain_steps=0", "task.width=64"],
    "language model": ["task=language_model", "engine=autograd", "task.pretrain_steps=0", f"task.width={WIDTH}"],
}


@cache
def configs(adapter: str, *overrides: str) -> list[Config]:
    """Runs that differ in their learning rate, without metrics: what they cost depends on no adapter's own."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        fields = [
            f"adapter={adapter}",
            f"adapter.rank={RANK}",
            f"init={STARTS[adapter]}",
            "device=cpu",
            f"eval.every={NEVER}",
        ]
        config = from_hydra(compose("config", overrides=[*fields, f"log.every={NEVER}", *overrides]))
    return [with_values(config, {"optimizer.lr": 2.0 ** (-k / 2 - 8)}) for k in range(RUNS)]


def measure(race: Any, rounds: int, seconds: float) -> dict[str, Any]:
    """{"steps": {place: times of each adapter}, "PEFT": times of PEFT's DoRA and ours, "memory": …}."""
    result: dict[str, Any] = {"steps": {}}
    for place, overrides in PLACES.items():
        entries = {
            name: (contestants.engine, stacks(configs(name, *overrides))[0])
            for name in STARTS
            if not (name == "dora" and place == "toy, fused")
        }
        if place != "toy, fused":
            alone = language.peft if "language" in place else contestants.peft
            entries["PEFT, dora"] = (alone, configs("dora", *overrides)[:1])
        result["steps"][place] = race(entries, rounds, seconds)["ms"]
    wide = ["task=feature_regression", f"task.width={WIDE}"]
    entries = {name: (contestants.engine, configs(name, *wide, "engine=autograd")) for name in ("lora", "dora")}
    result["memory"] = {"dense": RUNS * WIDE**2 * 4 / 1e6, **race(entries, 1, seconds)["MB"]}
    return result


def table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a place: milliseconds per run and step, and ratios."""
    rows = []
    for place, times in result["steps"].items():
        ms = {name: min(of) for name, of in times.items()}
        ratios = {f"{name} / LoRA": ms[name] / ms["lora"] for name in ("dora", "vera") if name in ms}
        peft = {"PEFT / stack, DoRA": ms["PEFT, dora"] / ms["dora"]} if "PEFT, dora" in ms else {}
        rows.append({"where": place, **ms, **ratios, **peft})
    return rows


def sentence(result: dict[str, Any]) -> str:
    memory = result["memory"]
    return (
        f"Memory at the peak of {RUNS} runs on a layer of {WIDE} × {WIDE} (feature_regression, 128 points): "
        f"{memory['lora']:.0f} MB for LoRA, {memory['dora']:.0f} MB for DoRA; {RUNS} dense changes of the weight take "
        f"{memory['dense']:.0f} MB."
    )

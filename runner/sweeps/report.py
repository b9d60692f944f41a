"""The end of a sweep in a table: what became of the runs, the best learning rates, and what to type next."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from runner.config import Config
from runner.config.experiments import experiment_names
from runner.store.outcome import DIVERGED, FAILED, FINISHED, INTERRUPTED
from runner.sweeps.api import SweepResult
from runner.sweeps.best import best_learning_rates, is_held_out
from runner.sweeps.results import SKIPPED, Results
from runner.training.measure.layer import columns_of

MIN_RATES = MIN_WIDTHS = 3  # fewer have no best rate off the edge, or no exponent
# Figures over training steps, by whether they are of transformers models, and a column that each needs.
OVER_TIME = {
    False: {"feature_norms": "feature/Z_A", "gradient_norms": "grad/A"},
    True: {"lm_dynamics": "grad/A"},
}


def print_report(results: Results, searched: Collection[str] = ()) -> None:
    """To stdout; one command's worth of runs. `searched`: the experiments whose rates were, of which the answer is told."""
    configs = [row["config"] for row in results.rows]
    outputs = configs[0].outputs
    counts = [(status, results.count(status)) for status in (FINISHED, DIVERGED, FAILED, INTERRUPTED, SKIPPED)]
    print(f"{len(results.rows)} runs: " + ", ".join(f"{count} {status}" for status, count in counts if count))
    if results.count(SKIPPED):
        print("  skipped: finished or diverged before; delete a run's folder to train it again")
    for error in sorted({row["error"] for row in results.rows if row["status"] == FAILED}):
        print(f"  failed: {error}")
    if results.interrupted or results.count(INTERRUPTED):
        print("  interrupted: the same command trains what is left")
    if searched:
        from analysis.advice.command import answers_of

        for name in searched:
            runs = SweepResult(results).runs
            if not (own := runs[runs["experiment"] == name]).empty:
                print("\n".join(answers_of(own)))
    table = best_learning_rates([row for row in results.rows if row["experiment"] not in searched])
    if not table.empty:
        print(table.to_string(index=False))
    for note in results.notes:
        print(note)
    only = results.rows[0]["run_id"] if len(results.rows) == 1 else ""
    folders = dict.fromkeys(str(Path(outputs) / "runs" / row["experiment"] / only) for row in results.rows)
    print(f"files: {', '.join(folders)}")
    if not any(results.count(status) for status in (FINISHED, DIVERGED, SKIPPED)):
        return  # there is nothing to draw
    names = dict.fromkeys(config.experiment for config in configs)
    of_each = ([config for config in configs if config.experiment == name] for name in names)
    commands = [_advice_command(of) if of[0].experiment in searched else _next_command(of) for of in of_each]
    for command in filter(None, dict.fromkeys(commands)):
        print(f"next:  {command}")


def _advice_command(configs: Sequence[Config]) -> str:
    return f"python -m analysis advise --experiment {configs[0].experiment}{_where(configs[0].outputs)}"


def _where(outputs: str) -> str:
    return "" if Path(outputs) == Path("outputs") else f" --outputs {shlex.quote(outputs)}"


def _next_command(configs: Sequence[Config]) -> str:
    """The analysis whose figures these runs can fill: of an experiment with a file its own, of others by what they vary and
    measure. Empty where there is none."""
    experiment, where = configs[0].experiment, _where(configs[0].outputs)
    if experiment == "first":  # the short form of lr_vs_width
        return f"python -m analysis headline --experiment first{where}"
    if experiment in experiment_names():
        return f"python -m analysis{where}"
    models = all(map(is_held_out, configs))
    rates, widths, adapters = (len({value(config) for config in configs}) for value in (_lr, _width, _adapter))
    measured = set.intersection(*({*columns_of(config)} for config in configs))
    over_time = [name for name, column in OVER_TIME[models].items() if column in measured]
    over_rates = [f"{'lm_' * models}lr_sensitivity"] * (rates >= MIN_RATES)
    over_widths = ["lr_vs_width"] * (rates >= MIN_RATES and widths >= MIN_WIDTHS)
    over_adapters = ["variants"] * (rates >= MIN_RATES and adapters > 1)
    names = " ".join(over_widths + over_rates + over_adapters + over_time)
    return f"python -m analysis {names} --experiment {experiment}{where}" if names else ""


def _lr(config: Config) -> float:
    return config.optimizer.lr


def _width(config: Config) -> int:
    return config.task.width


def _adapter(config: Config) -> str:
    return config.adapter.name

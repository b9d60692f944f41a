"""The best learning rate of every setting of a sweep, and what its seeds allow to say about it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from runner.config import Config
from runner.config.identity import defining
from runner.config.options import shown
from runner.config.registry import TASKS
from runner.core.optimum import interval, logs, optimum

WITHIN = ("optimizer.lr", "seed")  # what differs within a row of the table
MOST_DIGITS = 15


def best_learning_rates(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row for each setting, everything but learning rate and seed, among the rows of `Results`; of texts, to be printed.

    Best is the lowest final loss in the geometric mean over the seeds; a rate at which any run has none (it diverged, failed
    or is missing) does not compete. The interval is Student's, for the mean of log loss. `as good`: the rates around the
    best that are not worse beyond the seeds' noise (`optimum`). `at start`: the same loss before training, which is the
    frozen model's where B·A = 0.
    """
    settings: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault(str(_setting(row["config"])), []).append(row)
    best = [(of[0]["config"], numbers) for of in settings.values() if (numbers := _best(of))]
    if not best:
        return pd.DataFrame()
    columns = _columns([config for config, _ in best])
    best.sort(key=lambda each: [_order(value(each[0])) for value in columns.values()])
    table = pd.DataFrame([{name: shown(value(config)) for name, value in columns.items()} for config, _ in best])
    numbers = pd.DataFrame([numbers for _, numbers in best])
    table["best lr"], table["as good"] = _texts(numbers["lr"]), _ranges(numbers[["first", "last"]], "{} to {}")
    held_out = ["held-out" if is_held_out(config) else "training" for config, _ in best]
    table["loss"] = _texts(numbers["loss"])
    intervals = _ranges(numbers[["low", "high"]], "[{}, {}]")
    table["95% interval"] = [
        "1 seed: none" if n == 1 else text for n, text in zip(numbers["seeds"], intervals, strict=True)
    ]
    if len(set(held_out)) == 1:
        table = table.rename(columns={"loss": f"{held_out[0]} loss"})
    else:
        table["loss is"] = held_out
    table["at start"], table["seeds"] = _texts(numbers["start"]), numbers["seeds"]
    table["lrs"], table[""] = numbers["lrs"], numbers["edge"]
    return table


def is_held_out(config: Config) -> bool:
    """Whether the loss by which its runs are compared is of data that they do not train on."""
    return TASKS[config.task.name].objective == "final_eval_loss"


def _setting(config: Config) -> dict[str, Any]:
    """Dotted name -> value of everything that tells the rows of the table apart; experiments stay apart, too."""
    fields = {name: value for name, value, _ in defining(config) if name not in WITHIN}
    return {"experiment": config.experiment} | fields


def _order(value: Any) -> tuple[int, float, str]:
    """A place for values of any kind: numbers by size, then all others by what they look like."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value, "") if number else (1, 0.0, shown(value))


def _columns(configs: Sequence[Config]) -> dict[str, Callable[[Config], Any]]:
    """Column -> its value: the choices and the width, and the fields that vary under the same choices."""
    columns = {
        group: lambda c, group=group: getattr(c, group).name for group in ("task", "adapter", "init", "optimizer")
    }
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for config in configs:
        alike.setdefault(tuple(show(config) for show in columns.values()), []).append(_setting(config))
    if len({config.optimizer.name for config in configs}) == 1:
        del columns["optimizer"]
    columns["init"] = lambda c: c.init.name if c.adapter.start_from is None else Path(c.adapter.start_from).name
    columns["width"] = lambda c: c.task.width
    values = {}  # of every field, under the same choices
    for of in alike.values():
        for name in of[0]:
            values[name] = max(values.get(name, 0), len({str(fields[name]) for fields in of}))
    varying = [name for name, count in values.items() if count > 1 and name not in ("task.width", "experiment")]
    columns |= {name: lambda c, name=name: _setting(c).get(name, "") for name in varying}
    if len({config.experiment for config in configs}) > 1:
        columns = {"experiment": lambda c: c.experiment} | columns
    return columns


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The numbers of one row of the table; None where no rate has a loss for every run."""
    curve: dict[float, dict[int, float]] = {}
    for row in rows:
        config, loss = row["config"], row["loss"]
        curve.setdefault(np.log2(config.optimizer.lr), {})[config.seed] = np.inf if loss is None else float(logs(loss))
    found = optimum(curve)
    if found is None:
        return None
    best = [row for row in rows if np.log2(row["config"].optimizer.lr) == found.point]
    losses, start = (np.array([row[name] for row in best if row[name] is not None]) for name in ("loss", "start"))
    with np.errstate(all="ignore"):  # a loss of 0
        low, high = np.exp(interval(np.log(losses)))
        first, last = found.good
        return {
            "lr": best[0]["config"].optimizer.lr,
            "first": 2.0**first,
            "last": 2.0**last,
            "loss": np.exp(np.mean(np.log(losses))),
            "low": low,
            "high": high,
            "seeds": len(best),
            "start": np.exp(np.mean(np.log(start))) if len(start) else np.nan,
            "lrs": len(curve),
            "edge": "edge of the grid" if len(curve) > 1 and found.edge else "",
        }


def _ranges(ends: pd.DataFrame, text: str) -> list[str]:
    """A text of two columns, or of one number where they agree; empty where they are not known."""
    texts = _texts([*ends.iloc[:, 0], *ends.iloc[:, 1]])
    both = zip(texts[: len(ends)], texts[len(ends) :], strict=True)
    return [first if first == last else text.format(first, last) for first, last in both]


def _texts(numbers: Sequence[float]) -> list[str]:
    """Numbers with as few significant digits, at least three, as tell them apart; nan is empty."""
    different = len({x for x in numbers if not np.isnan(x)})
    for digits in range(3, MOST_DIGITS + 1):
        texts = ["" if np.isnan(x) else f"{x:.{digits}g}" for x in numbers]
        if len(set(texts) - {""}) == different:
            break
    return texts

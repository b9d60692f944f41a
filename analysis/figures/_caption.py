"""Sentences that all captions share: which runs are shown, and what bars and bands are.

A caption is a few sentences, one a line, the first of which is the message. Its numbers are computed from the records.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.scaling import MIN_SEEDS, Estimate
from analysis.tables.settings import parametrizations
from analysis.theory import PAIR_OPTIMIZERS, REMEDIES

OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "signsgd": "SignSGD", **PAIR_OPTIMIZERS}


def listed(items: Sequence[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def lines(*sentences: str) -> str:
    """The caption that these sentences make; empty ones are left out."""
    begun = (s[0].upper() + s[1:] if s[0].isascii() else s for s in sentences if s)  # δ1 stays δ1
    return "\n".join(begun)


def joined(sentence: str, more: str) -> str:
    """Two sentences as one, with a semicolon."""
    return f"{sentence[:-1]}; {more[0].lower()}{more[1:]}" if sentence and more else sentence or more


def number(value: float) -> str:
    """Two digits, without an exponent where the number is large."""
    text = f"{value:.2g}"
    return f"{float(text):.0f}" if "e+" in text and value < 1e7 else text


def power(estimate: Estimate, symbol: str = "n") -> str:
    """An exponent with its interval: `n^-0.75 [-0.80, -0.70]`."""
    interval = "" if np.isnan(estimate.low) else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{symbol}^{estimate.value:.2f}{interval}"


def interval(estimate: Estimate) -> str:
    """` [low, high]`, or nothing where there is none."""
    return (
        "" if np.isnan([estimate.low, estimate.high]).any() else f" [{number(estimate.low)}, {number(estimate.high)}]"
    )


def ratio(estimate: Estimate) -> str:
    """exp of a log ratio with its interval: `4.8 [3.1, 7]`."""
    return number(np.exp(estimate.value)) + interval(Estimate(*np.exp([estimate.value, estimate.low, estimate.high])))


def seeds(frame: pd.DataFrame) -> int:
    """How many seeds a task has; the fewest, of several tasks."""
    return int(_by_task(frame).nunique().min())


def _by_task(frame: pd.DataFrame):
    """Seeds by (task, how its model was pretrained, where that is not the standard)."""
    names = frame["task.name"] if "task.name" in frame else pd.Series("unnamed", frame.index)
    return frame["seed"].groupby([names.fillna("unnamed"), parametrizations(frame)])


def counted(number: int, what: str) -> str:
    """`1 seed`, `6 seeds`."""
    return f"{number} {what}{'s' * (number != 1)}"


def runs(frame: pd.DataFrame) -> str:
    """The sentence that names tasks, widths, seeds and steps."""
    return (
        f"Runs: {'; '.join(_of_task(task, frame.loc[group.index], made) for (task, made), group in _by_task(frame))}."
    )


def _of_task(task: str, frame: pd.DataFrame, made: str) -> str:
    model = frame["task.model"].dropna() if "task.model" in frame else ()
    models = dict.fromkeys(str(path).rstrip("/").rpartition("/")[2] for path in model)
    name = f"{task} ({', '.join(filter(None, [listed(list(models)), made]))})" if len(models) else task
    steps = frame["steps" if "steps" in frame else "step"].max()
    optimizers = sorted(frame["optimizer.name"].dropna().unique()) if "optimizer.name" in frame else []
    by = f" of {listed([OPTIMIZERS.get(optimizer, optimizer) for optimizer in optimizers])}" if optimizers else ""
    with_all = [remedy for field, remedy in REMEDIES.items() if field in frame and frame[field].notna().all()]
    by += f", {listed(with_all)}" if with_all else ""
    return (
        f"{name}, {'widths' if frame['task.width'].nunique() > 1 else 'width'} n = {_widths(frame)}, "
        f"{counted(frame['seed'].nunique(), 'seed')}, {counted(int(steps), 'step')}{by}"
    )


def _widths(frame: pd.DataFrame) -> str:
    widths = sorted(frame["task.width"].unique())
    return listed(widths) if len(widths) < 9 else f"{widths[0]} to {widths[-1]} ({len(widths)} of them)"


def bars(frame: pd.DataFrame, what: str = "bars and brackets") -> str:
    """The sentence that says what error bars and brackets are."""
    if seeds(frame) < MIN_SEEDS:
        return (
            f"There is no interval: of {counted(seeds(frame), 'seed')} no bootstrap is made, which takes {MIN_SEEDS}."
        )
    return f"{what} are 95% bootstrap intervals over seeds."


def bands(frame: pd.DataFrame, of: str = "geometric means") -> str:
    """The sentence that says what lines and bands are."""
    if seeds(frame) == 1:
        return "Lines are of a single seed, so that there is no band."
    return f"Lines are {of} over seeds, bands the range of the seeds."


def short(frame: pd.DataFrame, *more: str) -> str:
    """The same in few words, for the plot itself: `teacher_student, n = 128…2048, 6 seeds, …`."""
    tasks = sorted(frame["task.name"].dropna().unique()) if "task.name" in frame else []
    low, high = frame["task.width"].min(), frame["task.width"].max()
    widths = f"n = {low}" if low == high else f"n = {low}…{high}"
    return ", ".join([*tasks, widths, counted(seeds(frame), "seed"), *filter(None, more)])


def short_bars(frame: pd.DataFrame) -> str:
    """`95% intervals`, in few words, or nothing where there are too few seeds for them."""
    return "95% intervals" if seeds(frame) >= MIN_SEEDS else ""


def short_bands(frame: pd.DataFrame) -> str:
    return "bands: range over seeds" if seeds(frame) > 1 else ""

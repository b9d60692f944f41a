"""The numbers of an answer: each way at its best learning rate, and what the seeds say of the differences between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.grid import BY_HELD_OUT, is_setting, log_losses
from analysis.tables import where
from runner.core.optimum import Optimum, half_width, interval, mean, optimum

WAY = ("adapter.", "init.", "optimizer.")  # fields of a way to finetune; all others are of the question
WATCHING = ("log.", "eval.", "probe.")  # what is measured of a run, which does not change it
LR = "optimizer.lr"
MOST_SEEDS = 100  # more than so many that would decide are not counted


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with Student's 95% interval, nan of one seed."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        return cls(float(np.mean(values)), *interval(values))


@dataclass(frozen=True)
class Answer:
    """One way at its best learning rate.

    `curve`: log2 rate -> seed -> log loss, +inf where the run diverged. `found`: None where no rate has a loss of every seed.
    `loss` is over the seeds at the best rate. `breaks`: the lowest rate above the best at which a run broke down (it diverged
    or, where losses are held out, ended above its start); `holds`: the highest rate below. None where there is none.
    """

    name: str
    fields: Mapping[str, Any]
    curve: Mapping[float, Mapping[int, float]]
    found: Optimum | None
    loss: Mean
    holds: float | None
    breaks: float | None

    @property
    def seeds(self) -> int:
        return max(map(len, self.curve.values()))

    @property
    def runs(self) -> int:
        return sum(map(len, self.curve.values()))

    def curve_mean(self, x: float) -> float:
        """Mean log loss at a rate."""
        return mean(self.curve[x])

    def at_best(self) -> dict[int, float]:
        """Seed -> loss at the best rate."""
        return {seed: float(np.exp(loss)) for seed, loss in self.curve[self.found.point].items()}


@dataclass(frozen=True)
class Gap:
    """How much higher a way ends than the first, seed by seed, each at its own best rate: in nats, or as a ratio.

    `more`: seeds beyond these that would decide it, if they scatter as these do; None if it is decided, or more than MOST_SEEDS
    are needed.
    """

    name: str
    by: Mean
    decided: bool
    more: int | None


@dataclass(frozen=True)
class Question:
    """`fields`: what tells it from the other questions of the same table. `start`: the loss before training, in the mean.

    `answers`: the ways by their loss, the lowest first; those without a best rate at the end. `gaps`: of the others to it.
    `left_out`: ways with fewer seeds than others, which a search along two axes tries in passing, and which do not compare.
    """

    fields: Mapping[str, Any]
    task: str
    model: str | None
    start: float
    nats: bool
    answers: list[Answer] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    left_out: int = 0


def questions(runs: pd.DataFrame) -> list[Question]:
    """From a table with a row a run (`analysis.runs`)."""
    settings = [name for name in runs if is_setting(name) and not name.startswith(WATCHING)] + [
        "init.name",
        "task.width",
    ]
    runs = runs.drop_duplicates([*settings, LR, "seed"])
    varying = [name for name in settings if runs[name].nunique(dropna=False) > 1]
    ways, shared = ([name for name in varying if name.startswith(WAY) == own] for own in (True, False))
    called = naming(runs, shared)
    found = []
    for _, part in groups(runs, shared):
        first = {name: part[name].iloc[0] for name in called}
        found.append(_question({name: value for name, value in first.items() if not pd.isna(value)}, part, ways))
    return found


def _question(fields: dict[str, Any], runs: pd.DataFrame, varying: list[str]) -> Question:
    first = runs.iloc[0]
    nats = first["task.name"] in BY_HELD_OUT
    start = "summary.initial_eval_loss" if nats else "summary.initial_loss"
    model = first.get("task.model")
    names = [name for name in varying if runs[name].nunique(dropna=False) > 1]
    called = naming(runs, names) or ["init.name"]
    all_answers = [_answer(called, part, start, nats) for _, part in groups(runs, names)]
    most = max(answer.seeds for answer in all_answers)
    answers = [answer for answer in all_answers if answer.seeds == most]
    answers.sort(key=lambda answer: answer.loss.value if answer.found else np.inf)
    best, *others = answers
    gaps = [gap(best, other, nats) for other in others if best.found and other.found]
    return Question(
        fields=fields,
        task=str(first["task.name"]),
        model=None if model is None or pd.isna(model) else str(model),
        start=float(runs[start].mean()) if start in runs else np.nan,
        nats=nats,
        answers=answers,
        gaps=gaps,
        left_out=len(all_answers) - len(answers),
    )


def groups(table: pd.DataFrame, names: list[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    if not names:
        return [({}, table)]
    return [
        (dict(zip(names, values, strict=True)), part) for values, part in table.groupby(names, dropna=False, sort=True)
    ]


def _answer(called: list[str], runs: pd.DataFrame, start: str, nats: bool) -> Answer:
    curve: dict[float, dict[int, float]] = {}
    broken = set()
    losses = log_losses(runs)
    starts = runs[start].to_numpy(float) if start in runs else np.full(len(runs), np.nan)
    for lr, seed, loss, before in zip(runs[LR], runs["seed"], losses, starts, strict=True):
        curve.setdefault(float(np.log2(lr)), {})[int(seed)] = float(loss)
        if np.isposinf(loss) or (nats and loss > np.log(before)):
            broken.add(float(lr))
    found = optimum(curve)
    lrs = sorted(float(lr) for lr in runs[LR].unique())
    breaks = min((lr for lr in broken if found is None or np.log2(lr) > found.point), default=None)
    holds = max((lr for lr in lrs if breaks is None or lr < breaks), default=None)
    fields = {name: runs[name].iloc[0] for name in called}
    name = written(fields)
    if found is None:
        loss = Mean(np.nan, np.nan, np.nan)
    else:
        logs = Mean.of(np.array(list(curve[found.point].values())))
        loss = Mean(*np.exp([logs.value, logs.low, logs.high]))
    return Answer(name, fields, curve, found, loss, holds, breaks)


def written(fields: Mapping[str, Any]) -> str:
    """Fields as one types them."""
    parts = ((name.removesuffix(".name"), value) for name, value in fields.items() if not pd.isna(value))
    return " ".join(f"{name}={where.written(value)}" for name, value in parts)


def naming(runs: pd.DataFrame, varying: list[str]) -> list[str]:
    """The fields to tell their combinations by: the choices that differ, and what differs under the same choices."""
    choices = [name for name in varying if name.endswith(".name")]
    alike = runs.groupby(choices, dropna=False) if choices else runs
    rest = [name for name in varying if name not in choices]
    counts = {name: alike[name].nunique(dropna=False) for name in rest}
    return [*choices, *(name for name in rest if np.max(counts[name]) > 1)]


def gap(first: Answer, other: Answer, nats: bool) -> Gap:
    """Of `other` to `first`, over the seeds that both have at their best rates."""
    one, two = first.at_best(), other.at_best()
    seeds = sorted(one.keys() & two.keys())
    apart = np.array([two[s] - one[s] if nats else np.log(two[s] / one[s]) for s in seeds])
    if not len(apart):
        return Gap(other.name, Mean(np.nan, np.nan, np.nan), False, None)
    by = Mean.of(apart)
    decided = by.low > 0 or by.high < 0
    more = None if decided else more_seeds(apart)
    return Gap(other.name, by if nats else Mean(*np.exp([by.value, by.low, by.high])), decided, more)


def more_seeds(apart: np.ndarray) -> int | None:
    """How many beyond these would take 0 out of the mean's interval, if they had this mean and scatter."""
    middle, spread = abs(apart.mean()), apart.std(ddof=1) if len(apart) > 1 else np.nan
    for count in range(len(apart) + 1, MOST_SEEDS + 1):
        if half_width(spread, count) < middle:
            return count - len(apart)
    return None

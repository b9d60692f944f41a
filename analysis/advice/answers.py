"""The numbers of an answer: each way at its best learning rate, and what the seeds say of the differences between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.grid import BY_HELD_OUT, is_setting, log_losses
from analysis.tables import where
from analysis.tables.settings import FULL, is_full
from runner.core.optimum import CONFIDENCE, Optimum, half_width, interval, logs, mean, optimum

WAY = ("adapter.", "init.", "optimizer.")  # fields of a way to finetune; all others are of the question
WATCHING = ("log.", "eval.", "probe.", "sharpness.")  # what is measured of a run, which does not change it
LR = "optimizer.lr"
ADAPTER, FOLDER = "adapter.name", "adapter.start_from"
LEAST_SEEDS, MOST_SEEDS = 3, 100  # between which it is said how many would decide


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with Student's interval, nan of one seed."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, confidence: float = CONFIDENCE) -> "Mean":
        return cls(float(np.mean(values)), *interval(values, confidence))

    def exp(self) -> "Mean":
        """Of logs, that of what they are logs of."""
        return Mean(*(float(np.exp(x)) for x in (self.value, self.low, self.high)))


@dataclass(frozen=True)
class Answer:
    """One way at its best learning rate.

    `curve`: log2 rate -> seed -> log loss, +inf where the run diverged. `found`: None where no rate has a loss of every seed.
    `loss`: over the seeds at the best rate; `gain`: of log loss there minus that before training, seed by seed. `breaks`: the
    lowest rate above the best at which a run broke down (it diverged or, where losses are held out, ended above its start);
    `holds`: the highest rate below. None where there is none.
    """

    name: str
    fields: Mapping[str, Any]
    curve: Mapping[float, Mapping[int, float]]
    found: Optimum | None
    loss: Mean
    gain: Mean
    holds: float | None
    breaks: float | None

    @property
    def baseline(self) -> bool:
        """Whether it is full finetuning, which stands beside the others and is not advised."""
        return self.fields.get(ADAPTER) == FULL

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
    baseline: bool = False


@dataclass(frozen=True)
class Question:
    """`fields`: what tells it from the other questions of the same table. `start`: the loss before training, in the mean.

    `answers`: the ways by their loss, the lowest first; then those without a best rate, and full finetuning. `gaps`: of the
    others to the first. `left_out`: ways with fewer seeds than others, which a search along two axes tries in passing, and which
    do not compare.
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
    fields = settings(runs)
    runs = runs.drop_duplicates([*fields, LR, "seed"])
    varying = [name for name in fields if runs[name].nunique(dropna=False) > 1]
    ways, shared = ([name for name in varying if name.startswith(WAY) == own] for own in (True, False))
    return [_question(named(part, runs, shared), part, ways) for part in groups(runs, shared)]


def settings(runs: pd.DataFrame) -> list[str]:
    """The fields of the configuration that tell runs apart, besides rate and seed."""
    return [*(n for n in runs if is_setting(n) and not n.startswith(WATCHING)), "init.name", "task.width"]


def groups(table: pd.DataFrame, names: list[str]) -> list[pd.DataFrame]:
    """The parts of a table with the same values in these columns."""
    return [part for _, part in table.groupby(names, dropna=False, sort=True)] if names else [table]


def named(part: pd.DataFrame, whole: pd.DataFrame, varying: list[str]) -> dict[str, Any]:
    """The fields to call a part by, among those that vary in the whole: choices, and what differs under the same choices."""
    first = part.iloc[0]
    choices = [name for name in varying if name.endswith(".name")]
    alike = whole[(whole[choices] == first[choices]).all(axis=1)] if choices else whole
    rest = [name for name in varying if name not in choices and alike[name].nunique(dropna=False) > 1]
    return {name: first[name] for name in (*choices, *rest)}


def written(fields: Mapping[str, Any]) -> str:
    """Fields as one types them."""
    return " ".join(f"{name.removesuffix('.name')}={where.written(value)}" for name, value in fields.items())


def _question(fields: dict[str, Any], runs: pd.DataFrame, varying: list[str]) -> Question:
    first = runs.iloc[0]
    nats = first["task.name"] in BY_HELD_OUT
    start = "summary.initial_eval_loss" if nats else "summary.initial_loss"
    model = first.get("task.model")
    tried = []
    for _, alike in runs.groupby(is_full(runs)):
        names = [name for name in varying if alike[name].nunique(dropna=False) > 1]
        tried += [_answer(_called(part, alike, names), part, start, nats) for part in groups(alike, names)]
    contenders = [answer for answer in tried if not answer.baseline] or tried
    most = max(answer.seeds for answer in contenders)
    answers = [answer for answer in tried if 2 * answer.seeds >= most]
    answers.sort(key=lambda answer: (answer.baseline, answer.loss.value if answer.found else np.inf))
    best, *others = answers
    others = [other for other in others if best.found and other.found]
    rivals = [other for other in others if not other.baseline]
    return Question(
        fields=fields,
        task=str(first["task.name"]),
        model=None if model is None or pd.isna(model) else str(model),
        start=float(runs[start].mean()) if start in runs else np.nan,
        nats=nats,
        answers=answers,
        gaps=[gap(best, other, nats, 1 if other.baseline else len(rivals)) for other in others],
        left_out=len(tried) - len(answers),
    )


def _called(part: pd.DataFrame, whole: pd.DataFrame, varying: list[str]) -> dict[str, Any]:
    """What a way is called by; at least its init, or the folder that it starts from instead."""
    folder = part[FOLDER].iloc[0] if FOLDER in part else None
    start = {"init.name": part["init.name"].iloc[0]} if pd.isna(folder) else {FOLDER: folder}
    fields = named(part, whole, varying) or start
    if is_full(part).all():
        return {ADAPTER: FULL} | {name: value for name, value in fields.items() if not name.startswith("init.")}
    return fields if pd.isna(folder) else {k: v for k, v in fields.items() if not k.startswith("init.")} | start


def _answer(fields: dict[str, Any], runs: pd.DataFrame, start: str, nats: bool) -> Answer:
    curve: dict[float, dict[int, float]] = {}
    starts: dict[tuple[float, int], float] = {}
    broken = set()
    before = logs(runs[start].to_numpy(float)) if start in runs else np.full(len(runs), np.nan)
    for lr, seed, loss, first in zip(runs[LR], runs["seed"], log_losses(runs), before, strict=True):
        curve.setdefault(x := float(np.log2(lr)), {})[int(seed)] = float(loss)
        starts[x, int(seed)] = float(first)
        if np.isposinf(loss) or (nats and loss > first):
            broken.add(float(lr))
    found = optimum(curve)
    lrs = sorted(float(lr) for lr in runs[LR].unique())
    breaks = min((lr for lr in broken if found is None or np.log2(lr) > found.point), default=None)
    holds = max((lr for lr in lrs if breaks is None or lr < breaks), default=None)
    loss = gain = Mean(np.nan, np.nan, np.nan)
    if found is not None:
        at = curve[found.point]
        loss = Mean.of(np.array(list(at.values()))).exp()
        gain = Mean.of(np.array([loss - starts[found.point, seed] for seed, loss in at.items()]))
    return Answer(written(fields), fields, curve, found, loss, gain, holds, breaks)


def gap(first: Answer, other: Answer, nats: bool, comparisons: int = 1) -> Gap:
    """Of `other` to `first`, over the seeds that both have at their best rates. `comparisons` of them hold together at 95%
    (Bonferroni)."""
    one, two = first.at_best(), other.at_best()
    seeds = sorted(one.keys() & two.keys())
    apart = np.array([two[s] - one[s] if nats else np.log(two[s] / one[s]) for s in seeds])
    if not len(apart):
        return Gap(other.name, Mean(np.nan, np.nan, np.nan), False, None, other.baseline)
    confidence = 1 - (1 - CONFIDENCE) / comparisons
    by = Mean.of(apart, confidence)
    decided = by.low > 0 or by.high < 0
    more = None if decided else more_seeds(apart, confidence)
    return Gap(other.name, by if nats else by.exp(), decided, more, other.baseline)


def more_seeds(apart: np.ndarray, confidence: float = CONFIDENCE) -> int | None:
    """How many beyond these would take 0 out of the mean's interval, if they had this mean and scatter; of fewer than
    LEAST_SEEDS, which tell too little of both, None."""
    if len(apart) < LEAST_SEEDS:
        return None
    middle, spread = abs(apart.mean()), apart.std(ddof=1)
    for count in range(len(apart) + 1, MOST_SEEDS + 1):
        if half_width(spread, count, confidence) < middle:
            return count - len(apart)
    return None

"""Answers in words, and as plain data."""

import math
from typing import Any

import numpy as np

from analysis import theory
from analysis.advice.answers import Answer, Gap, Mean, Question
from analysis.figures._caption import counted, listed, number
from analysis.tables import where

NAMED = 3  # other ways that a verdict names one by one
STARTS = {"A": "start A at random and B at zero", "B": "start B at random and A at zero"}


def told(question: Question) -> list[str]:
    """The verdict, then a line a way."""
    of = heading(question)
    first = f"{of}: {verdict(question)}" if of else verdict(question)
    fewer = f"  left out, with fewer seeds: {counted(question.left_out, 'other way')}"
    ways = [f"  {way(question, answer)}" for answer in question.answers]
    return [first, *ways, *[fewer] * (question.left_out > 0)]


def heading(question: Question) -> str:
    """What tells it from the others; nothing of a single one."""
    fields = {name.removesuffix(".name").removeprefix("task."): value for name, value in question.fields.items()}
    return ", ".join(f"{name}={where.written(value)}" for name, value in fields.items())


def verdict(question: Question) -> str:
    """One sentence: which way, at which rate, how much better than the others, and what is not decided."""
    first = question.answers[0]
    if first.found is None:
        return "No rate at which every seed finished; search lower rates."
    side = theory.FAMILY.get(_init(first))
    what = f"{STARTS[side]} ({first.name})" if side else f"use {first.name}"
    if first.gain.value >= 0 or first.gain.high >= 0:  # False of a single seed's nan
        before = "the frozen model" if question.nats else "the start"
        return f"No rate improves on {before} by more than the seeds' noise."
    parts = [f"{what}, lr {rate(first)}", *_against_all(question)]
    parts += [
        f"{answer.name} has no rate at which every seed finished" for answer in question.answers if not answer.found
    ]
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def way(question: Question, answer: Answer) -> str:
    """Best rate, the range that is as good, breakdown, losses."""
    if answer.found is None:
        return f"{answer.name}: a run broke down at every rate, down to {number(2 ** min(answer.curve))}"
    low, high = (2.0**x for x in answer.found.good)
    parts = [f"lr {rate(answer)}"]
    if answer.seeds > 1:
        parts.append(
            f"as good within noise: {number(low)} to {number(high)}" if low < high else "no other rate as good"
        )
    if answer.breaks is not None:
        since = f"between {number(answer.holds)} and " if answer.holds is not None else "already at "
        parts.append(f"breaks down {since}{number(answer.breaks)}")
    else:
        parts.append(f"no breakdown up to {number(answer.holds)}")
    kind = "held-out loss" if question.nats else "training loss"
    before = f"; {'frozen model' if question.nats else 'at the start'} {question.start:.4g}" * math.isfinite(
        question.start
    )
    parts.append(f"{kind} {span(answer.loss, 4)}{before}")
    parts.append(f"{counted(answer.seeds, 'seed')}, {counted(len(answer.curve), 'rate')}")
    return f"{answer.name}: {'; '.join(parts)}"


def rate(answer: Answer) -> str:
    """`0.004 [0.003, 0.0055]`, and what must be known of it."""
    found = answer.found
    text = f"{2**found.x:.2g}"
    if found.edge and len(answer.curve) > 1:
        side = "lowest" if found.point == min(answer.curve) else "highest"
        return f"{text} (the {side} rate that was tried: the best may lie beyond)"
    if math.isnan(found.low):
        return f"{text} (one seed: no interval)" if answer.seeds == 1 else text
    ends = [f"{2**end:.2g}" if math.isfinite(end) else "?" for end in (found.low, found.high)]
    return f"{text} [{ends[0]}, {ends[1]}]" + (", next to breakdown" if found.cliff else "")


def span(mean: Mean, digits: int = 2) -> str:
    """A mean with its interval."""
    interval = "" if math.isnan(mean.low) else f" [{mean.low:.{digits}g}, {mean.high:.{digits}g}]"
    return f"{mean.value:.{digits}g}{interval}"


def _against_all(question: Question) -> list[str]:
    """Each other way, where there are few; else those that may be as good, and how much higher the others end. Full finetuning
    last."""
    baseline = [_against(gap, question.nats) for gap in question.gaps if gap.baseline]
    gaps = [gap for gap in question.gaps if not gap.baseline]
    if len(gaps) <= NAMED:
        return [*(_against(gap, question.nats) for gap in gaps), *baseline]
    decided = [gap.by.value for gap in gaps if gap.decided]
    open_ones = [gap.name for gap in gaps if not gap.decided]
    unit = "nats higher" if question.nats else "times as high"
    phrases = [f"not decided against {listed(open_ones)}"] if open_ones else []
    if decided:
        ends = " to ".join(dict.fromkeys(f"{value:.2g}" for value in (min(decided), max(decided))))
        phrases.append(f"{counted(len(decided), 'other')} end{'s' * (len(decided) == 1)} {ends} {unit}")
    return [*phrases, *baseline]


def _against(gap: Gap, nats: bool) -> str:
    lower = Mean(-gap.by.value, -gap.by.high, -gap.by.low)
    in_nats = f"{span(lower)} nats lower" if gap.by.value < 0 else f"{span(gap.by)} nats higher"
    by = in_nats if nats else f"{span(gap.by, 3)} times as high"
    if gap.decided:
        return f"{gap.name} ends {by}"
    if math.isnan(gap.by.low):
        return f"{gap.name} ends {by} (one seed decides nothing)"
    more = f"about {counted(gap.more, 'more seed')} may decide it" if gap.more else "many more seeds would be needed"
    return f"not decided against {gap.name}, which ends {by}; {more}"


def _init(answer: Answer) -> str:
    return str(answer.fields.get("init.name", ""))


def data(question: Question) -> dict[str, Any]:
    """Plain data for JSON: numbers as they are, null for what is not known or not bounded."""
    return {
        "fields": {name: _plain(value) for name, value in question.fields.items()},
        "task": question.task,
        "model": question.model,
        "verdict": verdict(question),
        "start": _plain(question.start),
        "difference": "nats" if question.nats else "ratio",
        "answers": [_answer(answer) for answer in question.answers],
        "left_out": question.left_out,
        "gaps": [
            {"way": gap.name, "by": _mean(gap.by), "decided": gap.decided, "more_seeds": gap.more}
            for gap in question.gaps
        ],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    found = answer.found
    best = found and {
        "lr": _plain(2**found.x),
        "interval": [_plain(2**found.low), _plain(2**found.high)],
        "tried": _plain(2**found.point),
        "as_good": [_plain(2**x) for x in found.good],
        "edge": found.edge,
        "next_to_breakdown": found.cliff,
        "loss": _mean(answer.loss),
    }
    return {
        "way": answer.name,
        "baseline": answer.baseline,
        "fields": {name: _plain(value) for name, value in answer.fields.items()},
        "best": best,
        "curve": [
            {"lr": 2.0**x, "log_loss": [_plain(y) for y in of.values()]} for x, of in sorted(answer.curve.items())
        ],
        "holds": _plain(answer.holds),
        "breaks": _plain(answer.breaks),
        "seeds": answer.seeds,
        "runs": answer.runs,
    }


def _mean(mean: Mean) -> dict[str, Any]:
    return {"value": _plain(mean.value), "interval": [_plain(mean.low), _plain(mean.high)]}


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no nan and no infinity."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value

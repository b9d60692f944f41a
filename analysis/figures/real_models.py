"""Which init, at which rate, on two real pretrained models: loss against rate of both inits and of full finetuning."""

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from analysis.advice import figure as advised
from analysis.advice import text
from analysis.advice.answers import Question, questions
from analysis.figures import _caption
from analysis.figures._needs import TWO_RATES
from analysis.tables.load import per_run

RECORDS = ("advise_smollm2", "advise_minilm")
AXES = ("steps",)
NEEDS = (TWO_RATES,)
BASELINE = True


def figure(*frames: pd.DataFrame) -> Figure:
    return advised.draw(_questions(frames))


def caption(*frames: pd.DataFrame) -> str:
    return _caption.lines(
        *(f"On {question.model}: {text.verdict(question)}" for question in _questions(frames)),
        "Broad lines cover the rates that are as good within the seeds' noise; triangles at the top edge mark rates at which "
        "runs diverged, or ended above the frozen model (dotted).",
        _caption.runs(pd.concat(frames, ignore_index=True)),
        "Bars on the best rates are Fieller's 95% intervals, and differences are paired by seed.",
    )


def _questions(frames: tuple[pd.DataFrame, ...]) -> list[Question]:
    """One a model, of its longest training."""
    found = []
    for frame in {id(frame): frame for frame in frames}.values():
        longest = per_run(frame[frame["steps"] == frame["steps"].max()])
        found += [replace(question, fields={"task.model": question.model}) for question in questions(longest)]
    return found

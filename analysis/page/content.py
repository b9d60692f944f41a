"""What the page says of an experiment, from its tables: the advice, the claims with their discussion, and data for its charts."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from analysis import figures, report
from analysis.advice import text
from analysis.advice.answers import Question, questions
from analysis.claims import Claim
from analysis.figures._caption import counted
from analysis.grid import NotShown
from analysis.page import data
from analysis.tables import load, needs, records
from analysis.tables.records import LAYERS, MissingRecords
from analysis.tables.settings import LeftOut
from analysis.tables.tables import Tables
from analysis.tables.where import written

LONGEST = 260  # letters of the answer that the page begins with
NO_ANSWER = "These runs do not answer which init to use."


@dataclass(frozen=True)
class Content:
    """`answer`: the one sentence to begin with. `unread`: words on runs without a result. `advice`: of each question, the
    verdict and a line a way. `left_out`: what the runs do not let be said, and why."""

    name: str
    data: dict[str, Any]
    answer: str
    unread: str
    advice: list[list[str]]
    claims: list[Claim]
    flags: list[str]
    left_out: list[str]


def content(name: str, tables: Tables) -> Content:
    """Raises MissingRecords and NotShown where there are no such runs, or they lack what every run has."""
    frame = tables.whole(name)
    with needs.missing_columns_told("report", {name: frame}, tables.outputs, tables.conditions):
        return _content(name, frame, tables)


def _content(name: str, frame: pd.DataFrame, tables: Tables) -> Content:
    table, origins = data.table_of(frame), None
    if tables.from_runs(name):
        origins = load.origins(records.runs_folder(tables.outputs, name), table["run_id"].tolist())
    found = data.experiment(name, frame, origins)
    left_out: list[str] = []
    asked = [question for question in questions(table) if any(len(answer.curve) > 1 for answer in question.answers)]
    first = _first(asked, found)
    if first:
        axes = [axis["field"] for axis in found["axes"]]
        begin = data.defaults(table, axes, {**first.fields, **_way(first)})
        found["axes"] = [{"field": axis, "default": code} for axis, code in zip(axes, begin, strict=True)]
    found["answers"] = [
        _setting(question, found) for question in [first, *(q for q in asked if q is not first)] if question
    ]
    return Content(
        name,
        found,
        found["answers"][0]["text"] if first else NO_ANSWER,
        _unread(tables.unread(name)),
        [text.told(question) for question in asked],
        *_claims(name, frame, tables, left_out.append),
        left_out,
    )


def _way(question: Question) -> dict[str, Any]:
    """What the way that an answer names is told by; nothing where it names none."""
    first = question.answers[0]
    return dict(first.fields) if first.found else {}


def _setting(question: Question, found: dict[str, Any]) -> dict[str, Any]:
    """An answer, and the axes' values of the runs that it is about, and of the way that it names."""

    def codes(fields: Mapping[str, Any]) -> dict[str, int]:
        columns = {field: found["runs"]["config"][field]["values"] for field in axes if field in fields}
        return {field: [*map(written, values)].index(written(fields[field])) for field, values in columns.items()}

    axes = [axis["field"] for axis in found["axes"]]
    return {"text": _in_short(text.told(question)[0]), "about": codes(question.fields), "way": codes(_way(question))}


def _unread(counts: Mapping[str, int]) -> str:
    """`4 runs are left out: 3 failed, 1 damaged.`"""
    of = ", ".join(f"{count} {status}" for status, count in counts.items())
    count = sum(counts.values())
    return f"{counted(count, 'run')} {'is' if count == 1 else 'are'} left out: {of}." if count else ""


def _in_short(verdict: str) -> str:
    """The verdict, or its first part where there is too much of it for a heading."""
    first, *more = verdict.split("; ")
    return verdict if len(verdict) <= LONGEST or not more else f"{first}; how others compare stands under Advice."


def _first(asked: list[Question], found: dict[str, Any]) -> Question | None:
    """The question about what the page shows at first; the last one where none is."""
    config = found["runs"]["config"]
    shown = {
        axis["field"]: config[axis["field"]]["values"][axis["default"]]
        for axis in found["axes"]
        if axis["default"] is not None
    }
    alike = [q for q in asked if all(shown.get(name, value) == value for name, value in q.fields.items())]
    return next(reversed(alike or asked), None)


def _claims(
    name: str, frame: pd.DataFrame, tables: Tables, say: Callable[[str], None]
) -> tuple[list[Claim], list[str]]:
    """The claims that apply, and the flags of the rates they rest on."""
    with warnings.catch_warnings():
        if not tables.from_runs(name):  # a record was told of when it was made
            warnings.simplefilter("ignore", LeftOut)
        try:
            gathered = _gathered(name, frame, tables)
            claims = report.claims_of(gathered, tables.outputs, tables.conditions, say)
            own = [source for source in gathered if not source.endswith(LAYERS)][:1]
            flags = [flag for source in own for flag in report.flags(gathered[source], figures.axes(source))]
            return claims, flags
        except (MissingRecords, NotShown) as reason:
            say(f"no claims: {reason}")
            return [], []


def _gathered(name: str, frame: pd.DataFrame, tables: Tables) -> dict[str, pd.DataFrame]:
    """Source -> table, as `python -m analysis` takes them: an experiment with claims of its own gives its own; the runs of any
    other stand for those of each figure that they can fill. A table along axes that none of them vary is the plain one."""
    layers = name + LAYERS
    if any(name in (key if isinstance(key, tuple) else (key,)) for key in report.CLAIMS):
        try:
            return {name: tables.get(name), layers: tables.get(layers)}
        except (MissingRecords, KeyError):
            return {name: tables.get(name)}
    plain = needs.get(report.ANY, name, report.ANY, tables)
    has_layers = "log.layers" in frame and frame["log.layers"].eq(True).any()

    def stand_in(figure: str, source: str) -> tuple[str, pd.DataFrame]:
        if source.endswith(LAYERS):
            if not has_layers:
                raise MissingRecords(records.no_layers(name))
            return layers, needs.get(figure, layers, source, tables)
        varies = any(axis in frame and frame[axis].nunique(dropna=False) > 1 for axis in figures.axes(source))
        return name, needs.get(figure, name, source, tables) if varies else plain

    gathered = {report.ANY: plain}
    for figure in figures.NAMES:
        try:
            found = {source: stand_in(figure, source) for source in figures.sources(figure)}
            with needs.checked(figure, dict(found.values()), tables.outputs, tables.conditions):
                gathered |= {source: table for source, (_, table) in found.items()}
        except (MissingRecords, NotShown):
            continue
    return gathered


def pictures(outputs: Path, folder: Path, names: list[str]) -> dict[Path, list[str]]:
    """Every drawn figure with the experiments that it shows: those in a folder of their own, or those that are made of them."""
    if own := [*filter(_is_whole, sorted(folder.glob("*.png")))] if folder != outputs / "figures" else []:
        return {picture: names for picture in own}
    drawn = {outputs / "figures" / f"{figure}.png": figures.sources(figure) for figure in figures.NAMES}
    shown = {picture: [name for name in names if {name, name + LAYERS} & set(of)] for picture, of in drawn.items()}
    return {picture: of for picture, of in shown.items() if of and _is_whole(picture)}


def _is_whole(picture: Path) -> bool:
    """Whether there is a picture which can be read; one that cannot is as if it were not drawn."""
    try:
        with Image.open(picture) as image:
            image.verify()
        return True
    except (OSError, SyntaxError):
        return False

"""What the page says of an experiment, from its tables: the advice, the claims with their discussion, and data for its charts."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures, report
from analysis.advice import text
from analysis.advice.answers import Question, questions
from analysis.claims import Claim
from analysis.grid import NotShown
from analysis.page import data
from analysis.tables import load, needs, records
from analysis.tables.records import LAYERS, MissingRecords
from analysis.tables.settings import LeftOut
from analysis.tables.tables import Tables

LONGEST = 260  # letters of the answer that the page begins with


@dataclass(frozen=True)
class Content:
    """`answer`: the one sentence to begin with. `advice`: of each question, the verdict and a line a way. `left_out`: what the
    runs do not let be said, and why."""

    name: str
    data: dict[str, Any]
    answer: str
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
    asked = questions(table)
    first = _first(asked, found)
    return Content(
        name,
        found,
        _in_short(text.told(first)[0]) if first else "These runs do not answer which init to use.",
        [text.told(question) for question in asked],
        *_claims(name, frame, tables, left_out.append),
        left_out,
    )


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
    if own := sorted(folder.glob("*.png")) if folder != outputs / "figures" else []:
        return {picture: names for picture in own}
    drawn = {outputs / "figures" / f"{figure}.png": figures.sources(figure) for figure in figures.NAMES}
    shown = {picture: [name for name in names if {name, name + LAYERS} & set(of)] for picture, of in drawn.items()}
    return {picture: of for picture, of in shown.items() if of and picture.exists()}

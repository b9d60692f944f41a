"""What the page says: of which runs, at which step, of which claims, and in which shapes."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pages
import pandas as pd
import pytest
from conftest import rejects

from analysis.claims import Claim
from analysis.page import command as page_command

if not all(map(find_spec, page_command.NEEDED)):
    pytest.skip("takes the extra report", allow_module_level=True)

from analysis import style
from analysis.page import charts, content, curves, data, discussion
from analysis.tables.tables import Tables

RECORDS = Path(__file__).resolve().parent.parent / "outputs"
MUP = discussion.MUP


@pytest.mark.parametrize(
    ("runs", "step"),
    [
        ([([0, 10], 10), ([0, 20], 20)], None),  # the last row of each
        ([([0, 1, 2], 10), ([0, 1, 2], 20)], 2),
        ([([0, 280], 300)] * 6 + [([0], 300)] * 34, 0),  # few have more
        ([([0, 2], 300)] * 97 + [([0, 1], 300)] * 3, 2),  # nearly all have it
        ([([0], 5), ([1], 5), ([1], 5)], 1),  # none that nearly all have
    ],
)
def test_runs_compare_by_the_latest_step_that_nearly_all_have(runs, step):
    assert curves.shared(runs) == step


def test_the_step_is_of_finished_runs_alone():
    frame = pages.sweep(widths=(128,), seeds=(0, 1), lrs=(0.5, 0.01, 0.02)).assign(**pages.FIELDS)
    frame.loc[frame["step"] == 20, "feature/delta_1"] = np.nan
    assert (frame["status"] == "diverged").any()
    found = data.experiment("x", frame)["curves"]
    assert found["columns"]["train/loss"]["step"] is None
    assert found["columns"]["feature/delta_1"]["step"] == 19
    assert set(found["last"]) == {1, 20} and set(found["rows"]) == {2, 5}
    everything = curves.curves(frame, data.table_of(frame)["run_id"].tolist(), [True] * len(found["last"]))
    assert everything["columns"]["feature/delta_1"]["step"] < 19


def test_the_page_begins_with_the_way_that_the_answer_names():
    found = content.content("lora_plus", Tables(RECORDS, say=str))
    begin = {axis["field"]: axis["default"] for axis in found.data["axes"]}
    first = found.data["answers"][0]
    assert first["text"] == found.answer and "optimizer.lr_ratio=32" in found.answer
    way = {axis: code for axis, code in first["way"].items() if axis != "init.name"}  # begins with all of them
    assert way.items() <= begin.items() and first["about"].items() <= begin.items() and begin["init.name"] is None
    ratios = found.data["runs"]["config"]["optimizer.lr_ratio"]["values"]
    assert ratios[begin["optimizer.lr_ratio"]] == 32
    table = data.table_of(Tables(RECORDS, say=str).whole("lora_plus"))
    plain = dict(zip(begin, data.defaults(table, [*begin]), strict=True))
    assert ratios[plain["optimizer.lr_ratio"]] == 1


def test_one_rate_an_init_answers_nothing():
    found = content.content("first_step", Tables(RECORDS, say=str))
    assert found.answer == content.NO_ANSWER and found.advice == [] and found.data["answers"] == []


def test_runs_without_a_result_are_counted(tmp_path):
    pages.outputs(tmp_path, widths=(128,), seeds=(0, 1, 2))
    assert content.content(pages.EXPERIMENT, Tables(tmp_path, say=str)).unread == ""
    runs = sorted((tmp_path / "runs" / pages.EXPERIMENT).iterdir())
    for path, status in zip(runs, ("failed", "interrupted", "failed"), strict=False):
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps(meta | {"status": status}))
    (runs[3] / "summary.json").write_text("{}")
    with pytest.warns(UserWarning, match="skipped damaged run"):
        found = content.content(pages.EXPERIMENT, Tables(tmp_path, say=str))
    assert found.unread == "4 runs are left out: 2 failed, 1 interrupted, 1 damaged."


def distinct(shapes: list[str], inits: list[str]) -> None:
    colors = [style.look(init).color for init in inits]
    assert len(set(zip(colors, shapes, strict=True))) == len(inits) and charts.STROKE not in shapes


def test_no_two_inits_look_the_same():
    table = pd.read_parquet(RECORDS / "records" / "init_zoo.parquet", columns=["init.name"])
    inits = sorted(table["init.name"].unique())
    distinct(charts.shapes(inits), inits)
    plain = [charts.SHAPES[style.look(init).marker] for init in inits]
    rejects(distinct, plain, inits)
    assert sum(one != other for one, other in zip(plain, charts.shapes(inits), strict=True)) == 2


def claims() -> list[Claim]:
    rows = re.findall(r"^\| (\d+[a-z]?) +\| ([^|]+?) +\|", discussion.DOCUMENT.read_text(), flags=re.MULTILINE)
    return [Claim(number, task, "", "", "", 0, 0, 0, "") for number, task in rows]


def shown(task: str) -> str:
    """All that stands under the claims on a task."""
    return "\n".join(
        passage.text
        for claim in claims()
        if claim.task == task
        for passage in discussion.passages()
        if passage.is_on(claim)
    )


def test_a_discussion_is_of_the_claims_own_task():
    standard, mup, toy = map(shown, ("language_model", MUP, "teacher_student"))
    assert "as transformers draws them" in standard and "as transformers draws them" not in mup + toy
    assert "Even in muP one kind" in mup and "Even in muP one kind" not in standard + toy
    assert "Init[B] hardly diverges first" in toy and "Init[B] hardly diverges first" not in standard + mup
    assert "within 2.5% of each other" in standard and "within 2.5% of each other" not in toy
    assert "The exponents from n = 32 to 128" in standard and "The exponents from n = 32 to 128" not in mup


def test_in_doubt_a_passage_is_left_out(tmp_path):
    table = "## The table\n\n| 3a | language_model |\n| 3a | language_model, mup |\n| 4 | sine |\n"
    document = tmp_path / "claims.md"
    document.write_text(f"{table}\n## What\n\n- On Llamas (3a).\n- In muP (3a).\n- Flat (4).\n- Flat (3a).\n")
    found = {passage.text: passage for passage in discussion.passages(document)}

    def tasks(text: str, number: str) -> list[str]:
        every = ("language_model", MUP, "teacher_student", "sine")
        return [t for t in every if found[text].is_on(Claim(number, t, "", "", "", 0, 0, 0, ""))]

    assert [tasks("- On Llamas (3a).", "3a"), tasks("- Flat (3a).", "3a")] == [[], []]
    assert [tasks("- In muP (3a).", "3a"), tasks("- Flat (4).", "4")] == [[MUP], ["sine"]]

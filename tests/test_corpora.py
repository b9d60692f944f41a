"""Data sets as users have them: what can be read is read as it is meant; of the rest field, file and row are named."""

import json

import pytest
import torch
from conftest import configure
from models import checkpoint, sentences

from runner.config import ConfigError
from runner.config.registry import TASKS
from runner.tasks.models import corpora, hub
from runner.tasks.models.text import labelled

TEXTS = sentences(40)
GOOD = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in ("language_model", "classification")}
    return {
        "language_model": checkpoint(folders["language_model"], "llama"),
        "classification": checkpoint(folders["classification"], "roberta", 3),
    }


@pytest.fixture
def read(models, tmp_path, monkeypatch):
    """`read(task, name, content, …)`: (training, held-out) examples of a file, after all that comes before training."""
    monkeypatch.setattr(hub, "ask", lambda: pytest.fail("asked the hub"))

    def examples(task, name, content, *more):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        given = [f"task={task}", f"task.model={models[task]}", "task.text_columns=[text]", "task.sequence_length=16"]
        given += ["task.labels=3"] * (task == "classification")
        config = configure(*given, f"task.dataset='{path}'", "task.batch_size=4", "adapter.rank=2", *more)
        labelled.cache_clear()  # it knows a file by its name
        TASKS[task].prepare(config)
        return TASKS[task].examples(config)

    return examples


CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in GOOD)
SAME = {
    "the name is a pattern": ("a[1].jsonl", lines(GOOD)),
    "upper case": ("A.JSONL", lines(GOOD)),
    "blank lines": ("d.jsonl", lines(GOOD).replace("\n", "\n\n")),
    "CRLF": ("d.jsonl", lines(GOOD).replace("\n", "\r\n")),
    "byte order mark": ("d.jsonl", b"\xef\xbb\xbf" + lines(GOOD).encode()),
    "an array": ("d.json", json.dumps(GOOD)),
    "csv, a column that is called like a second one": ("d.csv", CSV.replace("text,label", "text,text.1")),
    "csv, byte order mark": ("d.csv", b"\xef\xbb\xbf" + CSV.encode()),
    "text": ("d.txt", "\n".join(TEXTS)),
    "text, byte order mark": ("d.txt", b"\xef\xbb\xbf" + "\n".join(TEXTS).encode()),
    "text, CRLF": ("d.txt", "\r\n".join(TEXTS)),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_rows_are_the_same_examples(case, read):
    expected, found = (read("language_model", *file) for file in (("plain.jsonl", lines(GOOD)), SAME[case]))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.tokens, b.tokens)


def with_row(place, **fields):
    return lines([*GOOD[:place], GOOD[place] | fields, *GOOD[place + 1 :]])


LM, CLS = "language_model", "classification"
TOLD = {
    "empty": (LM, "d.jsonl", "", "d.jsonl is empty; give files with rows"),
    "blank": (LM, "d.jsonl", "\n", "task.dataset=FILE: cannot be loaded"),
    "one line": (LM, "d.txt", "the cat " * 1000, "task.dataset=FILE: has 1 row (of a text file, a line is one)"),
    "another code": (LM, "d.jsonl", lines(GOOD).encode() + b'{"text": "\xe9"}\n', "'text' is not in UTF-8"),
    "another code, text": (LM, "d.txt", b"\xe9\n" * 50, "task.dataset=FILE: cannot be loaded ('utf-8' codec"),
    "truncated": (LM, "d.jsonl", lines(GOOD)[:-9], "JSON parse error"),
    "no text": (LM, "d.jsonl", with_row(38, text=None), "row 38 of task.dataset=FILE, counted from 0, holds None"),
    "a number": (LM, "d.jsonl", with_row(20, text=3), "row 20 of task.dataset=FILE, counted from 0, holds 3"),
    "a list": (LM, "d.jsonl", lines([{"text": ["a"]}] * 40), "holds ['a'], which is no text"),
    "an object": (LM, "d.jsonl", lines([{"text": {"a": "b"}}] * 40), "holds {'a': 'b'}, which is no text"),
    "a column twice": (LM, "d.csv", CSV.replace("text,label", "text,text"), "FILE has this column twice"),
    "a column twice, upper case": (LM, "d.CSV", "\n" + CSV.replace("text,label", "label,label"), "twice: 'label'"),
    "no names of columns": (LM, "d.csv", "the cat " * 20000, "d.csv has no first row with the names of its columns"),
    "semicolons": (LM, "d.csv", CSV.replace(",", ";"), "has no such column; it has text;label"),
    "no text to classify": (
        CLS,
        "d.jsonl",
        with_row(39, text=" \n"),
        "row 39 of task.dataset=FILE, counted from 0, is empty",
    ),
    "one label": (
        CLS,
        "d.jsonl",
        lines([row | {"label": 1} for row in GOOD]),
        "all 36 rows of its training part have label 1",
    ),
    "labels of text": (CLS, "d.jsonl", lines([row | {"label": "1"} for row in GOOD]), "holds '1'; the labels must be"),
    "another kind": (LM, "d.jsonl.gz", "x", "task.dataset=FILE: 1 files there, d.jsonl.gz; give files of one kind"),
    "nothing": (LM, "nothing.jsonl", None, "task.dataset=FILE: there is no such file"),
}


@pytest.mark.parametrize("case", TOLD)
def test_what_is_no_data_is_told_by_field_file_and_row(case, read, tmp_path):
    task, name, content, told = TOLD[case]
    with pytest.raises(ConfigError) as error:
        read(task, name, content)
    message = str(error.value)
    assert told.replace("FILE", str(tmp_path / name)) in message and "\n" not in message, message


HELD_OUT = {
    "no column": (
        [{"words": "a", "label": 0}],
        "text_columns=text: task.eval_dataset=FILE has no such column; it has words",
    ),
    "no text": ([*GOOD[:3], {"text": None, "label": 0}], "row 3 of task.eval_dataset=FILE, counted from 0, holds None"),
    "a label": ([{"text": "a", "label": 9}], "the column 'label' of task.eval_dataset=FILE holds 9"),
    "nothing": ([], "task.eval_dataset=FILE: FILE is empty"),
}


@pytest.mark.parametrize("case", HELD_OUT)
def test_held_out_files_are_told_from_those_to_train_on(case, read, tmp_path):
    rows, told = HELD_OUT[case]
    path = tmp_path / "held_out.jsonl"
    path.write_text(lines(rows))
    with pytest.raises(ConfigError) as error:
        read(CLS, "d.jsonl", lines(GOOD), f"task.eval_dataset={path}")
    assert told.replace("FILE", str(path)) in str(error.value)


def test_held_out_text_that_is_too_short_is_not_blamed_on_the_other_files(read, tmp_path):
    (tmp_path / "e.jsonl").write_text(lines([{"text": "the cat"}]))
    with pytest.raises(ConfigError, match=r"task\.eval_dataset=\S*e\.jsonl: the 3 tokens of its held-out part"):
        read(LM, "d.jsonl", lines(GOOD), f"task.eval_dataset={tmp_path / 'e.jsonl'}")


def test_a_column_is_looked_for_twice_in_every_file_of_a_pattern(read, tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    with pytest.raises(ConfigError, match=r"b\.csv has this column twice: 'text'"):
        read(LM, "b.csv", CSV.replace("text,label", "text,text"), f"task.dataset='{tmp_path}/*'")


@pytest.mark.parametrize("field", ["subset=x", "train_split=test", "eval_split=test"])
def test_what_files_do_not_have_cannot_be_chosen(field, read, tmp_path):
    """It would be ignored, and yet make another run of the same one."""
    with pytest.raises(ConfigError, match=f"task.{field}: is for data sets on the hub or in a folder"):
        read(LM, "d.jsonl", lines(GOOD), f"task.{field}")


IGNORED = {
    ("task.eval_dataset=e.txt",): "task.eval_dataset=e.txt: is for data of your own; .*; set task.eval_dataset=null",
    (
        "task.text_columns=[a,b]",
    ): r"task.text_columns=\[a,b\]: is for data of your own; .*; set task.text_columns=\[text\]",
    ("task.eval_split=test", "task.eval_dataset=e.txt", "task.dataset=some/data"): (
        "task.eval_split=test: is not used, because .* task.eval_dataset=e.txt are held out; set task.eval_split=validation"
    ),
}


@pytest.mark.parametrize("overrides", IGNORED, ids=" ".join)
def test_what_other_data_do_not_have_cannot_be_chosen_either(overrides):
    with pytest.raises(ConfigError, match=IGNORED[overrides]):
        configure("task=language_model", *overrides)
    configure("task=language_model", *overrides[1:])


def test_a_file_of_defaults_is_read_once_for_all_runs(monkeypatch):
    task = configure("task=language_model").task
    monkeypatch.setattr(corpora.OmegaConf, "load", lambda path: pytest.fail(f"read {path} again"))
    corpora.check_fields(task)


def test_labels_that_are_never_trained_on_are_said(read, capsys):
    """As in a file that is sorted by them."""
    for last, told in ((2, True), (1, False)):
        rows = [row | {"label": last if i >= 36 else row["label"]} for i, row in enumerate(GOOD)]
        read(CLS, "d.jsonl", lines(rows))
        assert ("warning: labels 2 are held out and never trained on" in capsys.readouterr().err) == told

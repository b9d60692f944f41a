"""Whatever stands in the place of a stored file: it is named in a line, and the rest is drawn and evaluated."""

import json
import os
import random
import re
import shutil

import pandas as pd
import pytest
import yaml
from stored import FILES, rewritten, seal, store
from synthetic import first_steps, sweep

import analysis
from analysis import figures, style
from analysis.__main__ import main
from analysis.tables import blocks, records
from analysis.tables.load import DamagedRun

SMALL = {"seeds": (0,), "lrs": (0.03125, 0.0625, 0.125)}
DRAWN = {"first_step", "gradient_norms"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A record, and runs of another experiment."""
    outputs = tmp_path_factory.mktemp("whole")
    (outputs / "records").mkdir()
    first_steps().to_parquet(outputs / "records" / "first_step.parquet")
    fields = {"experiment": "lr_vs_width", "adapter.name": "lora"}
    store(outputs / "runs" / "lr_vs_width", sweep(widths=(128,), **SMALL).assign(**fields))
    return outputs


@pytest.fixture
def outputs(whole, tmp_path, monkeypatch):
    """A copy, of which a few figures are made but not written."""
    monkeypatch.setattr(figures, "NAMES", sorted(DRAWN))
    monkeypatch.setattr(style, "save", lambda figure, stem, caption: None)
    return shutil.copytree(whole, tmp_path / "outputs")


@pytest.fixture
def analyse(outputs, capsys):
    """`analyse(…)` -> (exit code, figures, lines that say what is amiss)."""

    def run(*arguments):
        code = main([*arguments, "--outputs", str(outputs)])
        out, err = capsys.readouterr()
        drawn = {name for name in DRAWN if f"figures/{name}.pdf" in out}
        amiss = [line for line in (out + err).splitlines() if line.startswith(("skipped", "left out", "not evaluated"))]
        return code, drawn, amiss + [line for line in err.splitlines() if line not in amiss]

    return run


def test_what_is_whole_is_drawn_without_a_word(analyse):
    assert analyse() == (0, DRAWN, [])


COLUMNS = {
    "text in a measured column": lambda t: t.assign(**{"grad/A": "abc"}),
    "text for a step": lambda t: t.assign(step="1"),
    "steps that are too large": lambda t: t.assign(step=10**18 + t["step"]),
    "steps below 0": lambda t: t.assign(step=t["step"] - 2),
    "every row twice": lambda t: pd.concat([t, t]),
    "no rows": lambda t: t[:0],
    "no steps": lambda t: t.drop(columns="step"),
    "a loss below 0": lambda t: t.assign(**{"grad/A": -1.0}),
    "lists": lambda t: t.assign(**{"grad/A": [[1.0]] * len(t)}),
}
IN_RECORDS = COLUMNS | {
    "text for a width": lambda t: t.assign(**{"task.width": "wide"}),
    "a width of 0": lambda t: t.assign(**{"task.width": 0}),
    "a rate that is none": lambda t: t.assign(**{"optimizer.lr": float("nan")}),
    "a rate below 0": lambda t: t.assign(**{"optimizer.lr": -0.1}),
    "no inits": lambda t: t.drop(columns="init.name"),
    "a status": lambda t: t.assign(status="well"),
    "runs without a name": lambda t: t.assign(run_id=None),
    "two rates for a run": lambda t: t.assign(**{"optimizer.lr": t["optimizer.lr"] * (1 + t.index % 2)}, run_id="a"),
    "text for a result": lambda t: t.assign(**{"summary.final_loss": "low"}),
}
IN_RUNS = COLUMNS | {
    "steps that go back": lambda t: t[::-1],
    "another init": lambda t: t.assign(**{"init.name": "zero"}),
}
UNFILLED = {
    "a column that is not there": lambda t: t.drop(columns="grad/A"),
    "a column of nan": lambda t: t.assign(**{"grad/A": float("nan")}),
    "a column of inf": lambda t: t.assign(**{"grad/A": float("inf")}),
}
TABLES = {name: rewritten(change) for name, change in (IN_RECORDS | IN_RUNS | UNFILLED).items()}
DAMAGE = FILES | TABLES
VICTIM = "B-128-0-0.0625"


@pytest.mark.parametrize("damage", [*FILES, *IN_RECORDS])
def test_a_damaged_record_is_named(outputs, damage):
    path = outputs / "records" / "first_step.parquet"
    records.read(outputs, "first_step")
    DAMAGE[damage](path, random.Random(1))
    with pytest.raises(
        records.DamagedRecord, match=rf"^{re.escape(str(path))} is damaged \(.*\); delete it and make it"
    ):
        records.read(outputs, "first_step")


def damaged(folder):
    """That the victim is named, once, and the others are read."""
    with pytest.warns(DamagedRun, match=rf"{VICTIM}: .*\w") as caught:
        table = analysis.load(folder)
    assert len(caught) == 1 and VICTIM not in set(table["run_id"]) and table["run_id"].nunique() == 5
    assert len(str(caught[0].message)) < 500 and "\n" not in str(caught[0].message)


@pytest.mark.parametrize("name", ["meta.json", "config.yaml", "summary.json", "steps.parquet"])
@pytest.mark.parametrize("damage", FILES)
def test_a_damaged_run_is_named_and_the_others_are_read(outputs, name, damage):
    """Also where somebody has recomputed the checksums."""
    run = outputs / "runs" / "lr_vs_width" / VICTIM
    DAMAGE[damage](run / name, random.Random(0))
    damaged(run.parent)
    if name != "meta.json" and damage not in ("a device", "a terabyte", "a bit"):  # of a digit, say
        seal(run)
        damaged(run.parent)


@pytest.mark.parametrize("damage", IN_RUNS)
def test_forged_steps_are_damage(outputs, damage):
    run = outputs / "runs" / "lr_vs_width" / VICTIM
    DAMAGE[damage](run / "steps.parquet", random.Random(0))
    seal(run)
    damaged(run.parent)


@pytest.mark.parametrize("place", ["records", "runs"])
def test_the_rest_is_drawn_and_evaluated(analyse, outputs, place):
    """One line names what is damaged, the exit code is 1, and figures of other runs are there."""
    rng, in_records = random.Random(place), place == "records"
    run = outputs / "runs" / "lr_vs_width" / VICTIM / "steps.parquet"
    path = outputs / "records" / "first_step.parquet" if in_records else run
    name, left = (str(path), DRAWN - {"first_step"}) if in_records else (VICTIM, DRAWN)
    shutil.copy(path, whole := outputs / "whole")
    certain = sorted({*FILES, *(IN_RECORDS if in_records else IN_RUNS)} - {"a bit"})
    always = ["steps that are too large", "text in a measured column", *(UNFILLED if in_records else ())]
    for damage in [*rng.sample(certain, 4), *always]:
        DAMAGE[damage](path, rng)
        code, drawn, amiss = analyse()
        assert code == 1 and drawn == left and any(name in line for line in amiss), (damage, amiss)
        path.rmdir() if path.is_dir() else path.unlink()
        shutil.copy(whole, path)
    assert analyse() == (0, DRAWN, [])


def laughs(first, more):
    """Lines that each stand for many of the line before."""
    return "\n".join([f"a0: &a0 {first}", *(f"a{i}: &a{i} {more.replace('*', f'*a{i - 1}')}" for i in range(1, 30))])


BOMBS = [laughs("[x, x]", "[*, *, *]"), laughs("{x: 1}", "{p: *, q: *, r: *}"), "a: &a [*a]", "a: " + 2000 * "["]
BOMBS += [laughs("{x: 1}", "{<<: [*, *, *, *]}"), "a: 2020-01-01", "a: !!set {x}", f"a: {5000 * '9'}"]
FORGED = {
    "config.yaml": [
        {"task": {"width": "wide"}},
        {"optimizer": None},
        {"init": {"name": 3}},
        {"steps": 0},
        {"seed": -1},
    ],
    "summary.json": [{"final_loss": "abc"}, {"final_loss": {"a": 1}}, {"final_loss": -1}, {"final_loss": True}, []],
    "meta.json": [
        {"status": "well"},
        {"status": ["finished"]},
        {"run_id": None},
        {"sha256": []},
        {"sha256": {}},
        "abc",
    ],
}


@pytest.mark.parametrize(("name", "fields"), [(name, fields) for name, cases in FORGED.items() for fields in cases])
def test_forged_fields_are_damage(outputs, name, fields):
    run = outputs / "runs" / "lr_vs_width" / VICTIM
    known = yaml.safe_load((run / name).read_text())
    for field, value in fields.items() if isinstance(fields, dict) else ():
        known[field] = known[field] | value if isinstance(value, dict) and isinstance(known[field], dict) else value
    (run / name).write_text(json.dumps(known if isinstance(fields, dict) else fields))
    if name != "meta.json":
        seal(run)
    elif fields == {"sha256": {}}:
        known["sha256"] = {}
        (run / name).write_text(json.dumps(known))
    damaged(run.parent)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda text: text[:30])
def test_a_configuration_that_stands_for_too_much_is_damage(outputs, bomb):
    run = outputs / "runs" / "lr_vs_width" / VICTIM
    with open(run / "config.yaml", "a") as file:
        file.write(bomb + "\n")
    seal(run)
    damaged(run.parent)


def test_whole_runs_are_no_damage(outputs):
    with pytest.raises(pytest.fail.Exception):
        damaged(outputs / "runs" / "lr_vs_width")


def test_aliases_are_refused_which_the_runner_does_not_write():
    with pytest.raises(ValueError, match="aliases"):
        blocks.parse(b"a: &a [1, 2]\nb: *a\n")


@pytest.mark.parametrize("place", ["file", "pipe", "link"])
def test_what_is_no_folder_of_runs_is_named(analyse, outputs, place):
    folder = outputs / "runs" / "first_step"
    {"file": folder.touch, "pipe": lambda: os.mkfifo(folder), "link": lambda: folder.symlink_to(folder)}[place]()
    code, drawn, amiss = analyse()
    assert code == 1 and drawn == DRAWN and f"{folder}: is no folder" in amiss[0]


def test_a_folder_of_folders_is_one_error(whole, tmp_path, recwarn):
    for wrong, message in ((whole / "runs", "name one of them: lr_vs_width"), (whole, "no finished runs")):
        for read in (analysis.load, analysis.runs):
            with pytest.raises(FileNotFoundError, match=message):
                read(wrong)
    (tmp_path / "empty.parquet").touch()
    for read in (analysis.load, analysis.runs):
        with pytest.raises(ValueError, match=r"empty\.parquet is damaged"):
            read(tmp_path / "empty.parquet")
    assert not recwarn.list


def test_an_experiment_whose_runs_are_a_file_is_one_message(analyse, outputs):
    (outputs / "runs" / "mine").touch()
    code, _, amiss = analyse("--experiment", "mine")
    assert code == 2 and "runs/mine: is no folder" in amiss[0] and amiss[1].startswith("error: ")

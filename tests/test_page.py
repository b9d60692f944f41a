"""`python -m analysis report`: its data are those of the table, it loads nothing, and it says what it cannot show."""

import json
import math
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pages
import pandas as pd
import pytest
from conftest import rejects
from matplotlib.figure import Figure

from analysis import files
from analysis.__main__ import main
from analysis.page import command as page_command
from analysis.page import curves, data, render
from analysis.tables import load

BUNDLE = render.BUNDLE
ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, page_command.NEEDED)), reason="takes the extra report: altair, jinja2, vl-convert-python"
)


@pytest.fixture(scope="module", autouse=True)
def without_libraries():
    """Which take seconds, and are the same in each page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "BUNDLE", "print('libraries()')")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, pd.DataFrame, str]:
    """Outputs, their table, and the page."""
    folder = tmp_path_factory.mktemp("page")
    frame = pages.outputs(folder, seeds=(0, 1, 2))
    picture = folder / "figures" / pages.EXPERIMENT / "some.png"
    picture.parent.mkdir(parents=True)
    Figure(figsize=(1, 1)).savefig(picture)
    picture.with_suffix(".md").write_text("A < B & C.\nRuns: all.")
    assert main(["report", "--experiment", pages.EXPERIMENT, "--outputs", str(folder)]) == 0
    return folder, frame, (folder / "figures" / pages.EXPERIMENT / "report.html").read_text()


def four(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def check(found: dict, frame: pd.DataFrame) -> None:
    """Every run of the table is there, with its configuration, results and curves to four digits, and no other."""
    by_run = dict(list(frame.groupby("run_id")))
    assert sorted(found["runs"]["id"]) == sorted(by_run)
    assert set(found["curves"]["columns"]) == {
        column for names in curves.PANELS.values() for column in names if column in frame
    }
    for i, run in enumerate(found["runs"]["id"]):
        rows = by_run[run]
        for field, column in found["runs"]["config"].items():
            assert column["values"][column["codes"][i]] == rows[field].iloc[0]
        for name, values in found["runs"]["numbers"].items():
            assert values[i] == four(rows["summary.final_loss" if name == "loss" else name].iloc[0])
        for name, curve in found["curves"]["columns"].items():
            there = rows[rows[name].notna()]
            steps = [] if curve["at"][i] is None else found["curves"]["steps"][curve["at"][i]]
            assert steps == there["step"].tolist()
            assert (curve["y"][i] or []) == [*map(four, there[name])]


def test_the_page_has_the_numbers_of_the_table(made):
    _, frame, page = made
    [found] = pages.contents(page).values()
    check(found, frame)
    for column in ("feature/Z_A", "summary.final_loss"):
        wrong = frame.copy()
        last = wrong.index[wrong[column].notna()][-1]
        rows = wrong["run_id"] == wrong.loc[last, "run_id"] if "." in column else [last]
        wrong.loc[rows, column] *= 1.001
        rejects(check, found, wrong)
    rejects(check, found, frame[frame["run_id"] != frame["run_id"].iloc[0]])


def test_means_are_of_the_log_over_seeds_with_students_interval_and_none_where_one_diverged(made):
    _, frame, page = made
    [found] = pages.contents(page).values()
    table = load.per_run(frame)
    axes = [axis["field"] for axis in found["axes"]]
    assert axes == ["init.name", "task.width"]
    diverged = 0
    for *codes, lr, mean, low, high, seeds, gone in found["cells"]:
        values = [found["runs"]["config"][axis]["values"][code] for axis, code in zip(axes, codes, strict=True)]
        part = table[(table[axes] == values).all(axis=1) & (table["optimizer.lr"] == lr)]
        assert seeds == len(part) == 3 and gone == (part["status"] == "diverged").sum()
        if gone:
            assert mean is low is high is None
            diverged += 1
            continue
        logs = np.log(part["summary.final_loss"])
        half = 4.302653 * logs.std(ddof=1) / math.sqrt(3)
        assert [mean, low, high] == pytest.approx(
            np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]), rel=1e-3
        )
    assert len(found["cells"]) == 2 * 2 * 8 and diverged


def test_it_loads_nothing_and_runs_no_other_script(made):
    page = made[2]
    markup, *scripts = page.split("<script>")
    addresses = re.findall(r"""\b(?:src|srcset|href|action|data)\s*=\s*["']?([^"'\s>]*)""", markup)
    assert addresses and all(address.startswith(("data:image/png", "#")) for address in addresses)
    assert len(scripts) == 2 and not re.search(r"<script[^>]+src|<(link|iframe|object|base)\b|@import|url\(", markup)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in re.sub(" +", " ", policy)
    assert "http" not in policy and "unsafe-eval" not in policy
    assert page.count("data:image/png;base64,") == 1 and 'alt="Figure some: A &lt; B &amp; C."' in page


def test_libraries_are_in_one_script_that_ends_where_it_ends(monkeypatch):
    monkeypatch.setattr(render, "BUNDLE", BUNDLE)
    with render.libraries() as libraries:
        script = libraries()
    assert script.count("window.vegaEmbed=") == 1 and "</script" not in script.lower() and len(script) < 1e6


def test_libraries_that_cannot_be_put_together_are_an_error(monkeypatch):
    monkeypatch.setattr(render, "BUNDLE", "raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError), render.libraries() as libraries:
        libraries()


def test_it_is_the_same_each_time_and_goes_where_it_is_told(made, tmp_path):
    folder, _, page = made
    path = tmp_path / "new" / "page.html"
    command = ["report", "--experiment", pages.EXPERIMENT, "--outputs", str(folder), "--out", str(path)]
    assert main(command) == 0 and path.read_text() == page
    assert main([*command, "--where", "task.width=128"]) == 0
    [found] = pages.contents(path.read_text()).values()
    assert {axis["field"] for axis in found["axes"]} == {
        "init.name"
    } and "Only runs with task.width=128." in path.read_text()


def test_names_are_text(tmp_path):
    """In a record, where an init may have any printable name."""
    evil = '</script><img src=x onerror="alert(1)">'
    frame = pages.sweep(widths=(128,), seeds=(0, 1), lrs=(0.01, 0.02, 0.04)).assign(**pages.FIELDS)
    frame["init.name"] = frame["init.name"].replace("gaussian_A", evil)
    frame["task.data"] = evil
    (tmp_path / "records").mkdir()
    frame.to_parquet(tmp_path / "records" / f"{pages.EXPERIMENT}.parquet")
    assert main(["report", "--outputs", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert evil in pages.contents(page)[pages.EXPERIMENT]["runs"]["config"]["init.name"]["values"]
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_curves_are_thinned_to_the_first_steps_and_others_evenly():
    for count in (0, 1, 60, 61, 300, 5000):
        kept = curves.thinned(count)
        assert len(kept) == len(set(kept)) == min(count, curves.POINTS)
        if count:
            assert kept[0] == 0 and kept[-1] == count - 1 and (np.diff(kept) > 0).all()
            assert count < 10 or kept[:10].tolist() == list(range(10))


def test_a_number_that_is_no_number_is_null():
    assert [curves.short(value) for value in (math.nan, math.inf, -math.inf, 0.0, 1234567.0, 0.123456)] == [
        None, None, None, 0, 1235000, 0.1235,
    ]  # fmt: skip


def test_fields_that_follow_from_others_are_no_axes_and_each_init_begins_with_one_curve():
    frame = pages.sweep(widths=(128, 256), seeds=(0, 1), lrs=(0.01, 0.02))
    wide = frame["task.width"] == 256
    frame = frame.assign(**{"task.rows": np.where(wide, 7, 5), "adapter.name": "lora", "steps": 20})
    more = frame.assign(run_id="x" + frame["run_id"], steps=40)
    found = data.experiment("x", pd.concat([frame, more]))
    begin = {axis["field"]: axis["default"] for axis in found["axes"]}
    assert begin == {"init.name": None, "task.width": 1, "steps": 1}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--experiment", "nothing"], "with finished runs; there are two_widths"),
        (["--experiment", f"{pages.EXPERIMENT}.layers"], "two_widths.layers: leave out '.layers'"),
        (["--experiment", "../x"], "must be a name"),
        (["--where", "x"], "--where 'x' is not FIELD=VALUE"),
        (["--experiment", pages.EXPERIMENT, "--where", "init.name=none"], "no run of two_widths has init.name=none"),
        (["--experiment", pages.EXPERIMENT, "--out", "/dev/null/page.html"], "error: /dev/null/page.html: "),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_message(made, arguments, says, capsys):
    try:
        code = main(["report", "--outputs", str(made[0]), *arguments])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2 and says in err and "Traceback" not in err


def test_nothing_at_all_and_what_is_not_installed(tmp_path, monkeypatch, capsys):
    assert main(["report", "--outputs", str(tmp_path)]) == 2
    assert f"error: {tmp_path} holds neither runs nor records" in capsys.readouterr().err
    monkeypatch.setattr(page_command, "NEEDED", ("not_installed",))
    assert main(["report", "--outputs", str(tmp_path)]) == 2
    assert "report needs not_installed, which is not installed; pip install" in capsys.readouterr().err


def test_a_damaged_record_is_left_out_and_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "records").mkdir()
    shutil.copy(ROOT / "outputs" / "records" / "first_step.parquet", tmp_path / "records")
    (tmp_path / "records" / "lr_vs_width.parquet").write_text("no table")
    assert main(["report", "--outputs", str(tmp_path)]) == 1
    assert "left out lr_vs_width:" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert list(pages.contents(page)) == ["first_step"] and "1c" in page
    written = files.written
    monkeypatch.setattr(files, "written", lambda path: written(tmp_path / "records" / "lr_vs_width.parquet" / "x"))
    assert main(["report", "--outputs", str(tmp_path)]) == 2
    assert (tmp_path / "report.html").read_text() == page

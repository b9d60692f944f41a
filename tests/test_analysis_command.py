"""`python -m analysis`: names that are refused, output that nobody reads, and disks that are full."""

import errno
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from stored import store
from synthetic import first_steps, layers, sweep

from analysis import figures, files, style
from analysis.__main__ import main
from analysis.tables import load, schema
from analysis.tables.tables import Tables
from runner.config.schema import EXPERIMENT

ROOT = Path(__file__).resolve().parent.parent


def test_a_record_is_checked_once(tmp_path, monkeypatch):
    """For the size that fresh runs must have, for the table, and beside the record of its layers; changed, it is read anew."""
    records, fields = tmp_path / "records", {"experiment": "lr_vs_width", "adapter.name": "lora"}
    records.mkdir()
    model = sweep(task="language_model", noise=0.019)
    tables = {
        "lr_vs_width": sweep(noise=0.019),
        "lm_lr_sensitivity": model,
        "lm_lr_sensitivity.layers": layers(noise=0.019),
    }
    for name, table in tables.items():
        table.to_parquet(records / f"{name}.parquet")
    store(tmp_path / "runs" / "lr_vs_width", sweep(widths=(128,), seeds=(0,), lrs=(0.03125, 0.0625)).assign(**fields))
    checked, said = [], []
    monkeypatch.setattr(schema, "changes", lambda frame: checked.append(len(frame)) or {})
    read = Tables(tmp_path, say=said.append)
    for name in tables:
        assert len(read.get(name)) == len(tables[name])
    assert sorted(checked) == sorted(map(len, tables.values())) and "kept" in said[0]
    path = records / "lr_vs_width.parquet"
    load.record(path).insert(0, "mine", 1)  # the reader's own
    assert "mine" not in load.record(path) and len(checked) == 3
    tables["lr_vs_width"].assign(seed=8).to_parquet(path)
    assert set(load.record(path)["seed"]) == {8} and len(checked) == 4


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    assert main(["--outputs", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"error: {tmp_path} holds neither runs nor records of any figure\n"


def test_records_whose_figure_lacks_others_are_judged_all_the_same(tmp_path, undrawn, capsys):
    """Those of `lm_mup` stand beside others in its figure; alone their claims are made, of layers only with their runs."""
    kept = ROOT / "outputs" / "records"
    (tmp_path / "records").mkdir()
    for name in ("lm_mup.layers", "lm_mup"):
        shutil.copy(kept / f"{name}.parquet", tmp_path / "records")
    assert main(["--outputs", str(tmp_path)]) == 0
    assert "skipped: no records of the layers of coordinate_check" in capsys.readouterr().out
    rows = [row.split("|")[1].strip() for row in (tmp_path / "claims.md").read_text().splitlines() if ", mup" in row]
    assert {"2a", "3a", "3b", "7", "13a", "16"} <= set(rows)
    (tmp_path / "records" / "lm_mup.parquet").unlink()
    assert main(["--outputs", str(tmp_path)]) == 0
    assert "claims:" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/tmp", "-x", "a b", "a" * 101])
def test_a_name_that_no_experiment_has_is_refused_with_the_rule(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([f"--experiment={name}"])
    assert stop.value.code == 2 and EXPERIMENT.text in capsys.readouterr().err


def piped(monkeypatch, path, reader_goes):
    """Standard output that nobody reads, or whose disk is full."""
    if reader_goes:
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(path, os.O_WRONLY)
    monkeypatch.setattr("sys.stdout", stream := open(writing, "w"))
    return stream


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A record of one figure's, which is made but not written."""
    monkeypatch.setattr(figures, "NAMES", ["first_step"])
    monkeypatch.setattr(style, "save", lambda figure, stem, caption: None)
    (tmp_path / "records").mkdir()
    first_steps().to_parquet(tmp_path / "records" / "first_step.parquet")
    return tmp_path


def test_drawing_goes_on_when_nobody_reads(outputs, monkeypatch, capfd):
    saved = []
    monkeypatch.setattr(style, "save", lambda figure, stem, caption: saved.append(stem.name))
    with piped(monkeypatch, None, True):
        assert main(["--outputs", str(outputs)]) == 0
    assert saved == ["first_step"] and capfd.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_cannot_be_printed_is_told(outputs, monkeypatch, capfd):
    with piped(monkeypatch, "/dev/full", False):
        assert main(["--outputs", str(outputs)]) == 1
    assert "cannot print (No space left on device)" in capfd.readouterr().err


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse(path, *_, **__):
    """As libraries do on a full disk: they leave a part, and do not say of what."""
    with open(path, "wb") as file:
        file.write(b"part")
    raise FULL


@pytest.mark.parametrize(
    ("owner", "name", "file"),
    [
        (pd.DataFrame, "to_parquet", "records/lr_vs_width.parquet"),
        (Figure, "savefig", "figures/gradient_norms.pdf"),
    ],
)
def test_a_full_disk_names_the_file_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys, owner, name, file):
    outputs = tmp_path / "outputs"
    fields = {"experiment": "lr_vs_width", "adapter.name": "lora"}
    store(
        outputs / "runs" / "lr_vs_width",
        sweep(widths=(128,), seeds=(0,), lrs=(0.03125, 0.0625, 0.125)).assign(**fields),
    )
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda _, path, **options: refuse(path))
        assert main(["gradient_norms", "--outputs", str(outputs)]) == 2
    assert capsys.readouterr().err == f"error: {outputs / file}: No space left on device\n"
    assert not (outputs / file).exists() and not list(outputs.rglob("*.new*")) + list(outputs.rglob(".new*"))


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="file"), files.written(path) as new:
        refuse(new)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]
    with files.written(path) as new:
        new.write_text("new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["file"]

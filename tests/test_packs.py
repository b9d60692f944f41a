"""Packs: what is in one file is resumed, analysed, exported and reported as if its directories were there."""

import errno
import io
import os
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import command, configure, rejects
from test_store import OUTCOME, PowerCut

import analysis
from runner import export, pack, push, status
from runner.store import packing, packs
from runner.store.outcome import DamagedRun, Outcome
from runner.store.runs import Store
from runner.sweeps.cli import main as runner_main
from runner.sweeps.plan import plan

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=3"]


@pytest.fixture
def swept(cli, outputs) -> Path:
    """The folder of four runs."""
    assert cli("-m", *TINY, "seed=0,1", "optimizer.lr=1e-3,1e-2", "log.layers=true")[0] == 0
    return outputs / "runs" / "scratch"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("[!.]*/*") if path.is_file()}


def packed(capsys, outputs: Path, code: int = 0) -> str:
    assert pack.main(["scratch", "--outputs", str(outputs)]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def pack_alone(folder: Path, *runs: Path) -> None:
    packing.write(folder, {run.name: lambda run=run: pack.verified(run) for run in runs}, lambda *_: None)


def flip_a_bit(folder: Path) -> str:
    """Of a packed run's steps; which run that is."""
    with zipfile.ZipFile(folder / packs.NAME) as file:
        [info, *_] = [each for each in file.infolist() if each.filename.endswith("steps.parquet")]
    data = bytearray((folder / packs.NAME).read_bytes())
    data[info.header_offset + 200] ^= 1
    (folder / packs.NAME).write_bytes(data)
    return info.filename.partition("/")[0]


def test_a_pack_is_one_file_with_what_was_there(swept, outputs, capsys, tmp_path):
    before = files(swept)
    assert "packed 4 runs" in packed(capsys, outputs)
    assert [path.name for path in swept.iterdir()] == [packs.NAME]
    with zipfile.ZipFile(swept / packs.NAME) as file:
        file.extractall(tmp_path / "out")
    assert files(tmp_path / "out") == before
    assert "packed 0 runs" in packed(capsys, outputs)


def test_a_packed_sweep_is_done_and_goes_on(swept, outputs, capsys, cli):
    packed(capsys, outputs)
    code, out, _ = cli("-m", *TINY, "seed=0,1,2", "optimizer.lr=1e-3,1e-2", "log.layers=true")
    assert code == 0 and "2 finished" in out and "4 skipped" in out
    assert len(list(swept.glob("*/meta.json"))) == 2
    assert "packed 2 runs" in packed(capsys, outputs)
    assert len(packs.runs_of(swept)) == 6
    code, out, _ = cli("-m", *TINY, "seed=0,1,2", "optimizer.lr=1e-3,1e-2", "log.layers=true")
    assert code == 0 and "6 skipped" in out and not list(swept.glob("*/meta.json"))
    assert status.main(["scratch", "--outputs", str(outputs)]) == 0
    assert "stored: 6 finished" in capsys.readouterr().out


def tables(folder: Path) -> list[pd.DataFrame]:
    runs = analysis.runs(folder)
    return [analysis.load(folder), runs, analysis.tables.load.layers(folder, runs["run_id"]).reset_index(drop=True)]


def test_tables_are_the_same(swept, outputs, capsys):
    before, one = tables(swept), next(swept.glob("*/meta.json")).parent
    alone = analysis.load(one)
    some = swept / "ffffffffffffffff"
    shutil.copytree(one, some)  # which is damaged: it says that it is another
    with pytest.warns(analysis.tables.load.DamagedRun):
        analysis.load(swept)
    assert "left out damaged run" in packed(capsys, outputs, 1)
    assert some.is_dir()
    shutil.rmtree(some)
    for after, expected in zip(tables(swept), before, strict=True):
        pd.testing.assert_frame_equal(after, expected)
    pd.testing.assert_frame_equal(analysis.load(one), alone)
    with pytest.raises(FileNotFoundError, match=r"name one of them: scratch"):
        analysis.load(swept.parent)


def test_what_is_trained_again_comes_before_what_is_packed(store):
    config = configure("steps=1")
    path = store.write(config, OUTCOME, {})
    pack_alone(path.parent, path)
    assert store.summary(config)["final_loss"] == 0.5
    new = Outcome("finished", OUTCOME.steps, {"final_loss": 0.25})
    store.write(config, new, {})
    assert store.summary(config)["final_loss"] == 0.25
    pack_alone(path.parent, path)
    assert store.summary(config)["final_loss"] == 0.25 and not path.exists()
    store.write(config, Outcome("failed", error="because"), {})  # of a later try: what is packed stays
    assert store.summary(config)["final_loss"] == 0.25


def test_what_another_process_trains_is_left(swept, outputs, capsys, monkeypatch):
    [name, *_] = sorted(path.name for path in swept.glob("[!.]*"))
    take = pack.Store.__init__.__globals__["CLAIMS"]["lock"].take
    monkeypatch.setattr("runner.store.claims.Locks.take", lambda self, run: name not in run and take(self, run))
    assert "packed 3 runs" in packed(capsys, outputs) and (swept / name).is_dir()
    monkeypatch.setattr("runner.store.claims.Locks.take", lambda self, run: packs.NAME not in run)
    assert "another process is packing it" in packed(capsys, outputs, 2)


def all_there(configs, store, expected: int) -> None:
    assert len(plan(configs, store).done) == expected


def test_a_power_cut_between_any_two_operations_loses_nothing(tmp_path, monkeypatch):
    configs = [configure("steps=1", f"seed={seed}") for seed in range(3)]
    operations = [(Path, "rename"), (Path, "unlink"), (shutil, "rmtree"), (os, "fsync"), (os, "rmdir"), (os, "unlink")]
    after, ended = 0, False
    while not ended:
        with Store(str(tmp_path / f"{after}")) as store:
            folder = store.write(configs[0], OUTCOME, {}).parent
            pack_alone(folder, store.path(configs[0]))
        with Store(str(tmp_path / f"{after}")) as store:
            for config in configs[1:]:
                store.write(config, OUTCOME, {})
            count = 0

            def cutting(operation, limit=after):
                def run(*arguments, **options):
                    nonlocal count
                    if count == limit:
                        raise PowerCut
                    count += 1
                    return operation(*arguments, **options)

                return run

            with monkeypatch.context() as patch:
                for owner, name in operations:
                    patch.setattr(owner, name, cutting(getattr(owner, name)))
                try:
                    pack_alone(folder, *map(store.path, configs[1:]))
                    ended = True
                except PowerCut:
                    pass
            all_there(configs, store, 3)
        assert pack.main(["scratch", "--outputs", str(tmp_path / f"{after}")]) == 0
        with Store(str(tmp_path / f"{after}")) as store:
            all_there(configs, store, 3)
        assert [path.name for path in folder.iterdir()] == [packs.NAME]  # and what was left is cleared away
        after += 1
    assert after > 7
    (folder / packs.NAME).unlink()
    with Store(str(tmp_path / f"{after - 1}")) as store:
        rejects(all_there, configs, store, 3)


def test_a_full_disk_is_told_and_loses_nothing(swept, outputs, capsys, monkeypatch):
    before = files(swept)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert "No space left on device" in packed(capsys, outputs, 2)
    assert files(swept) == before and not (swept / packs.NAME).exists()


def test_damage_to_a_pack_is_told_and_its_runs_are_trained_again(swept, outputs, capsys, cli):
    packed(capsys, outputs)
    whole = (swept / packs.NAME).read_bytes()
    (swept / packs.NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.warns(analysis.tables.load.DamagedRun, match="is damaged"), pytest.raises(FileNotFoundError):
        analysis.load(swept)
    for main in (pack.main, status.main, push.main):
        assert main(["scratch", "--outputs", str(outputs)]) == 2
        assert "is damaged" in capsys.readouterr().err
    code, out, err = cli("-m", *TINY, "seed=0,1", "optimizer.lr=1e-3,1e-2", "log.layers=true")
    assert code == 0 and "4 finished" in out and "damaged run, training it again" in err
    (swept / packs.NAME).unlink()  # as it says
    assert len(analysis.runs(swept)) == 4


def test_one_bit_of_a_packed_run_costs_that_run(swept, outputs, capsys):
    packed(capsys, outputs)
    run = flip_a_bit(swept)
    with pytest.warns(analysis.tables.load.DamagedRun, match=run):
        assert analysis.load(swept)["run_id"].nunique() == 3


def test_a_damaged_run_does_not_keep_others_from_being_packed(swept, outputs, capsys, cli):
    packed(capsys, outputs)
    flip_a_bit(swept)
    cli("-m", *TINY, "seed=2", "optimizer.lr=1e-3,1e-2", "log.layers=true")
    assert "which is damaged in the pack: the same commands train it again" in packed(capsys, outputs, 1)
    assert len(packs.runs_of(swept)) == 5
    code, out, _ = cli("-m", *TINY, "seed=0,1,2", "optimizer.lr=1e-3,1e-2", "log.layers=true")
    assert code == 0 and "1 finished" in out and "5 skipped" in out


def test_what_is_no_file_of_a_run_is_not_lost(swept, outputs, capsys):
    one = next(swept.glob("*/meta.json")).parent
    (one / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is no file of a run; move it elsewhere" in packed(capsys, outputs, 1)
    assert (one / "notes.txt").read_text() == "mine" and len(packs.packed(swept)) == 3


def test_a_pack_is_undone(swept, outputs, capsys, cli):
    before = files(swept)
    packed(capsys, outputs)
    assert pack.main(["scratch", "--outputs", str(outputs), "--undo"]) == 0
    assert "made directories of 4 runs" in capsys.readouterr().out
    assert files(swept) == before and not (swept / packs.NAME).exists()
    shutil.rmtree(next(swept.glob("[!.]*")))  # now it can be trained again
    code, out, _ = cli("-m", *TINY, "seed=0,1", "optimizer.lr=1e-3,1e-2", "log.layers=true")
    assert code == 0 and "1 finished" in out and files(swept).keys() == before.keys()


def test_a_pack_of_somebody_else_writes_nothing_elsewhere(swept, outputs, capsys):
    packed(capsys, outputs)
    for name in (
        "0123456789abcdef/../../../slip",
        "0123456789abcdef//tmp/slip",
        "../slip/config.yaml",
        ".hidden/config.yaml",
    ):
        with zipfile.ZipFile(swept / "bad", "w") as file:
            file.writestr(name, b"x")
        (swept / "bad").rename(swept / packs.NAME)
        assert pack.main(["scratch", "--outputs", str(outputs), "--undo"]) == 2
        assert "which is no file of a run; do not use it" in capsys.readouterr().err
    assert not [path for path in outputs.parent.rglob("*slip*")]


def test_what_is_damaged_in_a_pack_does_not_keep_the_rest_in_it(swept, outputs, capsys):
    packed(capsys, outputs)
    run = flip_a_bit(swept)
    assert pack.main(["scratch", "--outputs", str(outputs), "--undo"]) == 1
    told = capsys.readouterr()
    assert "made directories of 3 runs" in told.out and run in told.err
    assert len(list(swept.iterdir())) == 3


def test_a_pack_is_not_undone_under_a_sweep(swept, outputs, capsys, monkeypatch):
    packed(capsys, outputs)
    monkeypatch.setattr("runner.store.claims.Locks.take", lambda self, run: run.endswith(packs.NAME))
    assert pack.main(["scratch", "--outputs", str(outputs), "--undo"]) == 2
    assert "another process is at it" in capsys.readouterr().err
    assert [path.name for path in swept.iterdir()] == [packs.NAME]


@pytest.mark.parametrize("where", ["read", "seek"])
def test_a_disk_that_fails_while_an_index_is_read_is_no_damage(swept, outputs, capsys, monkeypatch, where):
    """Which zipfile takes for a file of another kind."""
    packed(capsys, outputs)
    packs._packs.clear()

    class Failing(io.BufferedReader):
        pass

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    setattr(Failing, where, fails)
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Failing(io.FileIO(path)))
    with pytest.raises(packs.Unreadable, match="cannot be opened"):
        packs.open_pack(swept)
    assert packs.hides(swept / "0123456789abcdef")


def test_a_pack_that_cannot_be_opened_for_a_moment_is_waited_for(swept, outputs, capsys, cli, monkeypatch):
    """Within a sweep, whose runs may be in it; nothing is trained twice."""
    packed(capsys, outputs)
    opened, failures = packs.open_pack, [errno.EIO] * 3

    def moody(folder: Path):
        if failures and planned:
            raise packs.Unreadable(failures.pop(), "cannot be opened", str(folder))
        return opened(folder)

    planned: list[int] = []
    take = pack.Store.claim
    monkeypatch.setattr(pack.Store, "claim", lambda self, config: planned.append(1) or take(self, config))
    monkeypatch.setattr(packs, "open_pack", moody)
    code, out, _ = cli("-m", *TINY, "seed=0,1,2", "optimizer.lr=1e-3,1e-2", "log.layers=true")
    assert code == 0 and "2 finished" in out and "4 skipped" in out and not failures


def test_who_has_stood_still_does_not_write_a_pack(swept, outputs, capsys, monkeypatch):
    """Others may have written it meanwhile, and removed the directories that are in it."""
    before = files(swept)

    def fsync(_: int) -> None:
        monkeypatch.setattr("runner.store.claims.Locks.take", lambda self, run: False)

    monkeypatch.setattr(os, "fsync", fsync)
    assert "or took over from this one; try again" in packed(capsys, outputs, 2)
    assert files(swept) == before and not list(swept.glob(".pack*")) and not (swept / packs.NAME).exists()


def test_two_who_write_a_pack_do_not_write_into_one_file(swept):
    [first, second, *_] = sorted(swept.glob("[!.]*"))
    before = files(swept)

    def meanwhile() -> dict[str, bytes]:
        contents = pack.verified(first)
        pack_alone(swept, second)
        return contents

    def refused(*_: str) -> None:
        raise PowerCut

    with pytest.raises((PowerCut, FileNotFoundError)):  # the second may have cleared away what the first wrote
        packing.write(swept, {first.name: meanwhile}, refused)
    assert packs.files(second).read("meta.json") == before[f"{second.name}/meta.json"]
    assert len(packs.runs_of(swept)) == 4 and not second.exists()


def test_a_pack_that_cannot_be_opened_is_told_and_nothing_is_trained(swept, outputs, capsys, cli):
    packed(capsys, outputs)
    (swept / packs.NAME).rename(swept / "aside")
    (swept / packs.NAME).mkdir()
    for main in (pack.main, status.main, push.main):
        assert main(["scratch", "--outputs", str(outputs)]) == 2
        assert "cannot be opened (Is a directory)" in capsys.readouterr().err
    code, _, err = cli("-m", *TINY, "seed=0,1", "optimizer.lr=1e-3,1e-2", "log.layers=true")
    assert code == 2 and "cannot be opened" in err and "Traceback" not in err
    assert not list(swept.glob("[!.]*/meta.json"))


def test_what_ends_without_a_result_does_not_hide_what_is_packed(store):
    config = configure("steps=1")
    path = store.write(config, OUTCOME, {})
    pack_alone(path.parent, path)
    whole = (path.parent / packs.NAME).read_bytes()
    (path.parent / packs.NAME).write_bytes(whole[:-30])  # as it may look for a while
    store.write(config, Outcome("interrupted", error="because"), {})
    (path.parent / packs.NAME).write_bytes(whole)
    assert store.summary(config)["final_loss"] == 0.5


def test_runs_that_are_packed_meanwhile_are_found(swept, monkeypatch):
    runs = sorted(swept.glob("[!.]*"))
    files_of = packs.find(runs[0])  # in its directory
    glob = Path.glob

    def then_pack(path: Path, pattern: str) -> list[Path]:
        found = list(glob(path, pattern))
        monkeypatch.setattr(Path, "glob", glob)
        pack_alone(swept, *runs)
        return found

    monkeypatch.setattr(Path, "glob", then_pack)
    assert packs.runs_of(swept) == runs and not runs[0].exists()
    assert files_of.has("summary.json") and files_of.read("summary.json")


def test_a_file_that_claims_any_size_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / packs.NAME, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0123456789abcdef/meta.json", b" " * 2**24)
    with pytest.raises(OSError, match="more than"):
        packs.files(tmp_path / "0123456789abcdef").read("meta.json")


def test_a_model_is_exported_from_a_pack(tmp_path, capsys):
    command(*TINY, f"outputs={tmp_path}", "log.weights=true")
    [run] = packs.runs_of(tmp_path / "runs" / "scratch")
    assert export.main([str(run), str(tmp_path / "before")]) == 2
    before = capsys.readouterr().err
    pack.main(["scratch", "--outputs", str(tmp_path)])
    capsys.readouterr()
    assert not run.exists()
    assert export.main([str(run), str(tmp_path / "after")]) == 2
    assert capsys.readouterr().err == before  # it knows the run: a toy has no model


def test_what_cannot_be_packed_is_refused(cli, outputs, capsys):
    cli(*TINY)
    for name in ("nothing", "", "..", "../runs/scratch"):
        assert pack.main([name, "--outputs", str(outputs)]) == 2
        assert "is not there" in capsys.readouterr().err


def test_the_command_line_knows_it(cli, outputs, monkeypatch, capsys):
    cli(*TINY)
    monkeypatch.setattr("sys.argv", ["runner", "pack", "scratch", "--outputs", str(outputs)])
    with pytest.raises(SystemExit) as end:
        runner_main()
    assert end.value.code == 0 and "packed 1 runs" in capsys.readouterr().out


def test_a_pack_that_another_process_replaces_is_read_anew(store):
    first, second = configure("steps=1"), configure("steps=2")
    for config in (first, second):
        path = store.write(config, OUTCOME, {})
        pack_alone(path.parent, path)
        assert store.summary(config)
    (path.parent / packs.NAME).unlink()
    assert store.summary(first) is None
    path.mkdir()  # a directory comes first, whatever is in it
    with pytest.raises(DamagedRun):
        store.summary(second)

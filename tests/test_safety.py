"""Sweeps that are killed, that find no room, that meet each other: what is left is an undisturbed sweep's store."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from conftest import messages, rejects
from sweeps import RUNS, SWEEP, at_once, killable, same_store


def test_a_sweep_killed_at_any_moment_ends_as_if_undisturbed(undisturbed, tmp_path):
    with killable(*SWEEP) as sweep:
        code, operations = sweep(tmp_path / "whole")
        assert code == 0 and operations > 3 * RUNS  # each run is a directory with three files at least
        moments, killed, stored = random.Random(0), 0, set()
        for trial in range(3):
            outputs = tmp_path / f"{trial}"
            # What is left after a kill takes fewer operations, so the later ones of a trial come early.
            for most in (operations, operations // 2, operations // 4, 0):
                fatal = moments.randint(1, most) if most else 0
                code, _ = sweep(outputs, fatal, moments.choice((1, 300, 3000)))
                if code != -signal.SIGALRM:
                    break
                killed += 1
                stored.add(len(list(outputs.glob("runs/scratch/[!.]*/meta.json"))))
            assert code == 0
            same_store(outputs, undisturbed)
        assert killed >= 4 and len(stored) >= 3, (killed, stored)  # they died at different moments of the sweep
    victim = next(outputs.glob("runs/scratch/*/steps.parquet"))
    victim.write_bytes(victim.read_bytes() + b" ")
    rejects(same_store, outputs, undisturbed)


@pytest.mark.parametrize("written", [0, 1, 7, 50])
def test_a_disk_that_fills_up_ends_the_sweep_with_a_message_and_costs_nothing_stored(
    undisturbed, cli, outputs, monkeypatch, written
):
    left, write_bytes = written, Path.write_bytes

    def write(path, data):
        nonlocal left
        if left == 0:
            write_bytes(path, data[: len(data) // 2])  # what there was room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= 1
        return write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        code, _, err = cli(*SWEEP)
    assert code == 2 and "No space left on device" in err and "Traceback" not in err
    stored = len(list(outputs.glob("runs/scratch/*/meta.json")))
    assert stored == written // 4  # files a run: each is whole, or not there
    code, out, _ = cli(*SWEEP)
    assert code == 0 and f"{RUNS - stored} finished" in out
    same_store(outputs, undisturbed)


@pytest.mark.parametrize("obstacle", ["file", "dangling link", "link to a folder"])
def test_what_stands_in_a_runs_place_is_replaced(undisturbed, cli, outputs, obstacle):
    [first, *_] = sorted(path.name for path in undisturbed.glob("runs/scratch/*"))
    (outputs / "runs" / "scratch").mkdir(parents=True)
    (outputs / "elsewhere").mkdir()
    place = outputs / "runs" / "scratch" / first
    if obstacle == "file":
        place.touch()
    else:
        place.symlink_to(outputs / "elsewhere" if "folder" in obstacle else "nothing")
    code, out, _ = cli(*SWEEP)
    assert code == 0 and f"{RUNS} finished" in out
    assert (outputs / "elsewhere").is_dir() and not place.is_symlink()
    (outputs / "elsewhere").rmdir()
    same_store(outputs, undisturbed)


def test_a_run_that_cannot_be_stored_does_not_cost_its_neighbours(undisturbed, cli, outputs, monkeypatch):
    rename = Path.rename
    [refused, *_] = sorted(path.name for path in undisturbed.glob("runs/scratch/*"))

    def refuse_one(path, target):
        if target.name == refused:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse_one)
        code, _, err = cli(*SWEEP, "workers=1")
    assert code == 2 and refused in err
    assert len(list(outputs.glob("runs/scratch/*/meta.json"))) % 6 == 5  # the rest of its stack, and the stacks before
    assert cli(*SWEEP)[0] == 0
    same_store(outputs, undisturbed)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_while_a_stack_is_being_stored_waits_until_it_is(outputs, workers):
    """Whichever thread the system hands the signal to. The stack's six runs are trained; the second write is slow."""
    script = """
import sys, time
from runner.store import runs as store
from runner.sweeps import cli
write, writes = store.Store.write, []
def slow(*arguments):
    writes.append(1)
    if len(writes) == 2:
        print("writing", flush=True)
        time.sleep(1)
    return write(*arguments)
store.Store.write = slow
cli.main()
"""
    command = [sys.executable, "-c", script, *SWEEP, "seed=0", f"workers={workers}", f"outputs={outputs}"]
    with processes.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 0 and messages(err) == ""  # there is nothing left to interrupt
    statuses = [json.loads(meta.read_text())["status"] for meta in outputs.glob("runs/*/*/meta.json")]
    assert statuses == ["finished"] * 6


def test_two_sweeps_at_once_share_the_work(undisturbed, tmp_path):
    told = at_once(3, *SWEEP, f"outputs={tmp_path}", "workers=1")
    assert [code for code, _ in told] == [0, 0, 0], told
    finished = [int(match[1]) if (match := re.search(r"(\d+) finished", out)) else 0 for _, out in told]
    assert sum(finished) == RUNS  # nothing was trained twice
    same_store(tmp_path, undisturbed)


def test_what_others_train_is_waited_for_and_skipped(cli, outputs, tmp_path):
    """Another process holds the claim on one of two runs, stores it a moment later, and is believed."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import configure
from runner.store.runs import Store
from runner.training.train import train
config = configure(*sys.argv[1:])
with Store({str(outputs)!r}) as store:
    assert store.claim(config)
    print("claimed", flush=True)
    sys.stdin.readline()
    time.sleep(1)
    store.write(config, train([config])[0], {{}})
"""
    arguments = [*SWEEP[1:5], "optimizer.lr=1e-3"]
    command = [sys.executable, "-c", script, *arguments]
    with processes.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "claimed\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        code, out, err = cli("--multirun", *SWEEP[1:5], "optimizer.lr=1e-3,1e-2")
    assert code == 0 and "1 finished, 1 skipped" in out
    assert err == "waiting for 1 runs that another process is training\n"

"""Claims by files, and what a process does that is parted from its store. Two machines are in tests/clusters/test_hosts.py."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import processes
import pytest
from conftest import configure, rejects

from runner.config import ConfigError
from runner.config.schema import StoreConfig
from runner.store import claims, leases
from runner.store.claims import Connection
from runner.store.leases import Leases
from runner.store.runs import CLAIMS, Store

EXPIRES = 1.0


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(claims, "EVERY", 0.02)
    monkeypatch.setattr(claims, "UNHEARD", EXPIRES / 2)
    monkeypatch.setattr(leases, "EXPIRES", EXPIRES)


def died(owner: Leases) -> Leases:
    """One that shows no more that it is alive, as on a machine without power; here its process goes on, which tells nothing."""
    owner.connection.close()
    time.sleep(0.1)
    return owner


def taken(owner: Leases, name: str, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not (ours := owner.take(name)) and time.monotonic() < end:
        time.sleep(0.01)
    return ours


@pytest.fixture
def owners(tmp_path):
    """Owners in one folder, as of so many machines."""
    made = []

    def make(count: int) -> list[Leases]:
        made.extend(Leases(tmp_path, lambda: None) for _ in range(count))
        return made[-count:]

    yield make
    for owner in made:
        owner.close()


def test_the_ways_to_claim_are_those_of_the_configuration():
    [claims] = StoreConfig.__dataclass_fields__.values()
    assert tuple(CLAIMS) == claims.metadata["allowed"].names


def test_a_lease_excludes_others_until_it_is_given_back(owners):
    first, second = owners(2)
    assert first.take("a") and first.take("a") and not second.take("a") and second.take("b")
    first.give_back("b")  # not ours
    assert not first.take("b")
    first.give_back("a")
    assert second.take("a")


def test_nothing_stays_of_those_that_end(owners, tmp_path):
    first, second = owners(2)
    first.take("a"), second.take("b")
    first.close(), second.close()
    assert not list((tmp_path / ".leases").iterdir())


def test_a_lease_lasts_as_long_as_its_owner_shows_that_it_is_there(owners):
    first, second = owners(2)
    assert first.take("a")
    assert not taken(second, "a", 3 * EXPIRES)
    died(first)
    began = time.monotonic()
    assert taken(second, "a")
    assert time.monotonic() - began > EXPIRES / 2  # it was watched: an hour on a clock would not have been enough
    first.give_back("a")  # it wakes up, and what it had is no longer its own
    assert not first.take("a") and second.take("a")


def test_clocks_of_machines_do_not_matter(owners, tmp_path):
    first, second = owners(2)
    first.take("a")
    for path in (tmp_path / ".leases").iterdir():
        os.utime(path, (0, 0))
    assert not second.take("a")
    assert not taken(second, "a", 2 * EXPIRES)


def winners(owners: list[Leases], name: str) -> int:
    """How many of them have the claim, after all have asked for it for as long as it takes one of them, and longer."""
    together, ours, end = threading.Barrier(len(owners)), [], time.monotonic() + 20

    def ask(owner: Leases) -> None:
        nonlocal end
        together.wait()
        while time.monotonic() < end:
            if owner.take(name):
                ours.append(owner)
                end = time.monotonic() + EXPIRES / 2
                return

    threads = [threading.Thread(target=ask, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(
        not owner.connection.lost for owner in ours
    )  # a thread that had no time for so long has lost it, as it should


def one_alone_wins(owners: list[Leases], name: str) -> None:
    assert winners(owners, name) == 1


def raising(number: int):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_what_a_dead_owner_left_goes_to_one_alone(owners, monkeypatch):
    for chain in range(3):  # of owners that died while they took over from each other
        dead = owners(chain + 1)
        dead[0].take(f"run {chain}")
        for before, heir in pairwise(dead):
            died(before)
            with monkeypatch.context() as patch:
                patch.setattr(Path, "rename", raising(errno.ENOSPC))
                with pytest.raises(ConfigError, match="cannot claim"):
                    taken(heir, f"run {chain}")
        died(dead[-1])
        one_alone_wins(owners(6), f"run {chain}")


def test_who_only_replaces_what_a_dead_owner_left_is_not_alone(owners, monkeypatch):
    """The negative control."""
    [dead] = owners(1)
    dead.take("a")
    died(dead)

    def careless(self: Leases, path: Path) -> bool:
        owner = leases._read(path)
        if owner is None or owner == self.owner.encode() or not self._is_dead(owner.decode(), path):
            return owner == self.owner.encode()
        time.sleep(0.05)
        path.write_bytes(self.owner.encode())
        return True

    monkeypatch.setattr(Leases, "_take", careless)
    rejects(one_alone_wins, owners(6), "a")


def test_an_owner_that_was_killed_on_this_machine_is_dead_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "EXPIRES", 1e9)
    monkeypatch.setattr(claims, "UNHEARD", 1e9)
    script = f"""
import os, signal, sys
from pathlib import Path
from runner.store.leases import Leases
print(Leases(Path({str(tmp_path)!r}), lambda: None).take("a"), flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    here = Leases(tmp_path, lambda: None)
    process = processes.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "True\n"
        assert not here.take("a")
        process.communicate("die\n")
    assert taken(here, "a")
    here.close()


def test_a_break_in_the_network_is_not_the_end_of_a_sweep(owners, monkeypatch):
    [owner] = owners(1)
    for number in (errno.EIO, errno.ENOTCONN, errno.ESTALE):
        with monkeypatch.context() as patch:
            patch.setattr(leases, "_created", raising(number))
            assert not owner.take("a")
    assert owner.take("a")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", raising(errno.EIO))
        owner.give_back("a")
    assert owner._path("a") in owner.ours  # and it is tried again at the end
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", raising(errno.ESTALE))  # of what was removed while it was read
        assert leases._read(owner.alive) is None
    for number in (errno.ENOSPC, errno.EACCES):
        with monkeypatch.context() as patch:
            patch.setattr(leases, "_created", raising(number))
            with pytest.raises(ConfigError, match=os.strerror(number)):
                owner.take("b")


def test_what_is_shown_is_never_half_there(owners):
    [owner] = owners(1)
    lengths = {len(owner.alive.read_bytes()) for _ in range(50) if not time.sleep(0.005)}
    assert len(lengths) == 1 and owner.shown > 2


def test_an_empty_claim_that_came_and_went_does_not_count_against_the_next(owners):
    first, second = owners(2)
    path = first._path("a")
    path.write_bytes(b"")
    assert not second.take("a")
    path.unlink()
    assert first.take("a") and not second.take("a")
    time.sleep(1.5 * EXPIRES)
    path.write_bytes(b"")
    assert not second.take("a")  # it has seen it for a moment only


def test_a_machine_that_slept_has_lost_what_it_had_even_if_it_shows_itself_first(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(claims, "steady", lambda: now[0])
    monkeypatch.setattr(Connection, "_watch", lambda self: None)  # it comes later
    connection = Connection(lambda: None, lambda: None)
    time.sleep(0.1)
    heard = connection.heard
    now[0] += 100
    time.sleep(0.1)
    assert connection.heard == heard  # and the gap is still to be seen
    connection.close()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_process_that_is_parted_from_its_store_is_told_once(hangs):
    reached, back, lost = threading.Event(), threading.Event(), []
    reached.set()

    def show() -> None:
        if not reached.is_set():
            if not hangs:
                raise OSError
            back.wait()

    connection = Connection(show, lambda: lost.append(time.monotonic()))
    time.sleep(2 * EXPIRES)
    assert not lost and not connection.lost
    reached.clear()
    parted = time.monotonic()
    while not lost:
        time.sleep(0.01)
    assert EXPIRES / 2 - 0.05 < lost[0] - parted < EXPIRES  # before others take over
    reached.set(), back.set()
    time.sleep(EXPIRES)
    assert connection.lost and len(lost) == 1  # what others may have by now is not ours again
    connection.close()


def test_a_sweep_that_is_parted_from_its_store_ends_and_goes_on_later(cli, outputs, monkeypatch):
    """In its own process and with workers; nothing is written that another might be writing."""
    show, parts = Leases._show, True

    def fails(self: Leases) -> None:
        if parts and list(outputs.glob("runs/scratch/.checkpoints/*.safetensors")):  # it trains
            raise OSError
        show(self)

    monkeypatch.setattr(Leases, "_show", fails)
    long = [
        "-m",
        "task.width=64",
        "steps=200000",
        "log.every=1000",
        "seed=0,1",
        "store.claims=lease",
        "checkpoint.minutes=0",
    ]
    for workers in (1, 2):
        shutil.rmtree(outputs, ignore_errors=True)
        code, _, err = cli(*long, f"workers={workers}")
        assert code == 130 and "did not answer" in err, err
        assert not list(outputs.glob("runs/scratch/*/meta.json"))
    parts = False
    assert cli("-m", "steps=2", "seed=0,1", "store.claims=lease")[0] == 0


def test_those_who_share_a_folder_claim_in_one_way(tmp_path):
    with (
        Store(str(tmp_path)),
        pytest.raises(ConfigError, match=r"claimed by store.claims=lock; use that, or.* delete .*\.lock"),
    ):
        Store(str(tmp_path), "lease")
    (tmp_path / "runs" / ".lock").unlink()
    with Store(str(tmp_path), "lease") as store:
        assert store.claim(configure("steps=1"))
        with pytest.raises(ConfigError, match=r"claimed by store.claims=lease; use that, or.* delete .*\.leases"):
            Store(str(tmp_path))

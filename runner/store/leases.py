"""Claims by files, for file systems on which machines do not see each other's locks.

    .leases/<owner>.alive    one of each process: on which machine it is, and a number that it raises every few seconds
    .leases/<run>            names the owner of a claim; created by one process alone
    .leases/<run>~<owner>    names who takes over the claim of an owner that is dead

An owner is dead whose number has stood still for EXPIRES seconds, on the clock of the process that waits for it: clocks of two
machines are never compared, so one that is wrong or set meanwhile does no harm. On its own machine it is dead once it has ended.
It takes a file system that creates a file for one process alone (O_EXCL), renames at once, and shows what another machine has
written when a file is opened: NFS, Lustre, SMB, GlusterFS and sshfs do.
"""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runner.config import ConfigError
from runner.store.claims import CANNOT, EXPIRES, Claims, Connection, steady

ALIVE = ".alive"


class Leases(Claims):
    mark = ".leases"
    wait = 2.0  # each look opens three files

    def __init__(self, folder: Path, parted: Callable[[], None]):
        self.folder = folder / self.mark
        self.owner = secrets.token_hex(8)
        self.alive, self.shown = self.folder / f"{self.owner}{ALIVE}", 0
        self.ours: set[Path] = set()
        self.seen: dict[Path, tuple[bytes | None, float]] = {}  # what other owners show, and since when
        self.folder.mkdir(exist_ok=True)
        self._show()
        self.connection = Connection(self._show, parted)

    @property
    def lost(self) -> bool:
        return self.connection.lost

    def take(self, name: str) -> bool:
        if self.lost:
            return False
        path = self._path(name)
        try:
            taken = self._take(path)
        except OSError as error:
            if error.errno not in CANNOT:
                return False
            raise ConfigError(
                f"outputs={self.folder.parent.parent}: cannot claim runs there ({error.strerror}); choose a folder elsewhere"
            ) from error
        (self.ours.add if taken else self.ours.discard)(path)
        return taken

    def give_back(self, name: str) -> None:
        self._remove(self._path(name))

    def close(self) -> None:
        self.connection.close()
        for path in list(self.ours):
            self._remove(path)
        with suppress(OSError):
            self.alive.unlink()
            if all(path.suffix == ALIVE for path in self.folder.iterdir()):  # nobody waits for those who died here
                for path in self.folder.iterdir():
                    if (shows := _read(path)) and _has_ended_here(shows):
                        path.unlink()

    def _path(self, name: str) -> Path:
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:32]

    def _take(self, path: Path) -> bool:
        """Whether this claim is ours now. One that a dead owner left is replaced by whoever claims to be its successor."""
        if path not in self.ours and _created(path, self.owner):
            return True
        owner = _read(path)
        if owner == self.owner.encode():
            return True
        if owner is None or not self._is_dead(owner.decode(errors="replace"), path):
            return False
        successor = path.with_name(f"{path.name}~{hashlib.sha256(owner).hexdigest()[:16]}")
        if not self._take(successor):
            return False
        if _read(path) != owner:  # another has succeeded before us
            successor.unlink()
            return False
        successor.rename(path)
        return True

    def _remove(self, path: Path) -> None:
        """A claim that is still ours: others may have taken what a process lost that was parted from the store."""
        with suppress(OSError):
            if not self.lost and _read(path) == self.owner.encode():
                path.unlink()
            self.ours.discard(path)

    def _is_dead(self, owner: str, claim: Path) -> bool:
        """Whether the owner of the claim is; of one that its owner has not written yet, whether it never will."""
        alive = claim
        if owner.isalnum():
            alive = self.folder / f"{owner}{ALIVE}"
            self.seen.pop(claim, None)
        shows, now = _read(alive), steady()
        if shows and _has_ended_here(shows):
            return True
        before, since = self.seen.setdefault(alive, (shows, now))
        if shows != before:
            self.seen[alive] = shows, now
        return shows == before and now - since > EXPIRES

    def _show(self) -> None:
        """In the place of what was shown before and as long, so that nobody reads half of it, and no disk can be too full."""
        self.shown += 1
        data = json.dumps({**_here(), "shown": f"{self.shown:012d}"}).encode()
        file = os.open(self.alive, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(file, data)
        finally:
            os.close(file)


def _created(path: Path, owner: str) -> bool:
    """Whether this process has created the file."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(file, owner.encode())
    finally:
        os.close(file)
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # of NFS: it was removed between opening and reading
            return None
        raise


def _here() -> dict[str, str | int | None]:
    """This process, among all of all machines that have /proc: machine since it started, container, number, start."""
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _has_ended_here(shows: bytes) -> bool:
    """Whether that is a process of this machine that is no more."""
    try:
        told = json.loads(shows)
        return (
            _machine() is not None and told["machine"] == _machine() and _has_ended(int(told["pid"]), told["started"])
        )
    except (ValueError, KeyError, TypeError):  # as while it is written
        return False


def _has_ended(pid: int, started: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's, of which it may not be seen when it started
        return False
    return _started(pid) != started


def _machine() -> str | None:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """When a process started, in ticks since its machine did; None where there is none, or it has ended and nobody asked how."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])

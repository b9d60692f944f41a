"""Claims: the right of one process to train and write a run, among all that share the store, on this machine and on others.

`store.claims=lock` are the system's locks, which it drops when a process ends, however it ends. `store.claims=lease` are files
that their owner keeps alive, see `leases`: for file systems on which machines do not see each other's locks.
"""

import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Protocol

from runner.config import ConfigError
from runner.store import mounts

# Seconds. Whoever shares a store with others shows at each EVERY that it is still connected, and gives up what it has claimed
# after UNHEARD without success, which is before others take it: a lease has expired after EXPIRES, and the locks of a client that
# NFS does not hear from after 90 by default, of GlusterFS after 42.
EVERY, UNHEARD, EXPIRES = 5.0, 30.0, 60.0
# What no later try would change; anything else that goes wrong with a claim may be a break in the network, see `Connection`.
CANNOT = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EISDIR,
}


class Claims(Protocol):
    """Of one process, in the folder of a store's runs. Raises ConfigError where there can be none.

    `parted` is called, from another thread, once this process has been parted from the store for so long that others may take
    what it has claimed; from then on it has nothing, and gets nothing.
    """

    mark: ClassVar[str]  # what it leaves in the folder, by which others see that claims are of this kind there
    wait: ClassVar[float]  # seconds between two looks at what others have claimed
    lost: bool  # whether this process has been parted

    def __init__(self, folder: Path, parted: Callable[[], None]): ...

    def take(self, name: str) -> bool:
        """Claim the run of this name; whether it is ours, as one that we have already is."""

    def give_back(self, name: str) -> None:
        """What we have claimed."""

    def close(self) -> None:
        """Give back everything."""


class Locks(Claims):
    """A claim is a lock on one byte of the file `.lock`, at a place that the run's name gives.

    A process has one, because closing the file drops its locks, whoever took them.
    """

    mark = ".lock"
    wait = 0.2

    def __init__(self, folder: Path, parted: Callable[[], None]):
        self.folder = folder
        mount = mounts.mount_of(folder)
        if mount and (why := mounts.local_locks(mount)):
            raise ConfigError(
                f"outputs={folder.parent}: is on {mount.point} ({mount.kind}, {why}), where other machines do not see locks; use "
                "store.claims=lease, on all of them, or choose a folder elsewhere"
            )
        self.file = os.open(folder / self.mark, os.O_RDWR | os.O_CREAT, 0o666)
        self.connection = Connection(self._show, parted) if mount and mount.shared else None

    @property
    def lost(self) -> bool:
        return self.connection is not None and self.connection.lost

    def take(self, name: str) -> bool:
        if self.lost:
            return False
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place(name))
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if self.connection and error.errno not in CANNOT:
                return False
            raise ConfigError(
                f"outputs={self.folder.parent}: cannot lock files there ({error.strerror}); use store.claims=lease, on all "
                "machines, or choose a folder elsewhere"
            ) from error
        return True

    def give_back(self, name: str) -> None:
        with suppress(OSError):  # it is lost already
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, place(name))

    def close(self) -> None:
        if self.connection and not self.connection.close():
            return  # it hangs in a call on the file, whose number must not become another file's
        with suppress(OSError):  # as when it was lost with the connection
            os.close(self.file)

    def _show(self) -> None:
        """What the server hears of: data that it has to take, not only this machine's memory."""
        os.pwrite(self.file, b"\n", 0)
        os.fsync(self.file)


class Connection:
    """Shows, in a thread, at each EVERY that this process is there, by a call that raises OSError or hangs where it is not; and
    notices, in another, that it has not succeeded for UNHEARD seconds."""

    def __init__(self, show: Callable[[], None], parted: Callable[[], None]):
        self.show, self.parted = show, parted
        self.closed, self.lost = threading.Event(), False
        self.heard = steady()
        self.shows = threading.Thread(target=self._show, daemon=True)
        self.shows.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> bool:
        """Show no more; whether that has ended."""
        self.closed.set()
        self.shows.join(EVERY)
        return not self.shows.is_alive()

    def _show(self) -> None:
        while not (self.closed.wait(EVERY) or self.lost):
            begun = steady()  # as old as what others see may be
            if begun - self.heard > UNHEARD:  # the machine slept, or this thread had no time
                return
            try:
                self.show()
            except OSError:
                continue
            self.heard = begun

    def _watch(self) -> None:
        while not self.closed.wait(EVERY / 5):
            if steady() - self.heard > UNHEARD:
                self.lost = True
                self.parted()
                return


def steady() -> float:
    """Seconds of a clock that nobody sets, and that goes on while a machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def place(name: str) -> int:
    """A byte offset for a run, below 2^62."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2

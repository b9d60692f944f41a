"""Packs: the finished runs of an experiment in one file, `packed.zip`, which is read as if their directories were there.

File systems of clusters count files and are slow to open them; a run has four. A pack holds `<run_id>/<file>` as the directories
did, so that any unzip brings them back. A directory that is there, too, comes first: it was trained later.
"""

import errno
import os
import re
import weakref
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, Protocol

from runner.store.files import check_size, read_file

META = "meta.json"
NAME = "packed.zip"
PIECE = 2**20  # bytes
MOST_OPEN = 4  # packs at a time
PLAIN = re.compile(r"[^./\\][^/\\]*")  # names that lead nowhere else
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError)


class Damaged(OSError):
    """A pack, or a file in it, that is not what it should be."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


class Unreadable(Damaged):
    """A pack that cannot be opened, of whose contents nothing is known."""


class Files(Protocol):
    """Those of one run; `path`: its directory, which may not be there."""

    path: Path

    def read(self, name: str) -> bytes:
        """Raises OSError, as `read_file`, and Damaged."""

    def has(self, name: str) -> bool: ...


class _Folder(Files):
    def __init__(self, path: Path):
        self.path = path

    def read(self, name: str) -> bytes:
        try:
            return read_file(self.path / name)
        except FileNotFoundError:
            if self.path.exists() or (elsewhere := find(self.path)) is None:
                raise
            return elsewhere.read(name)  # it was packed meanwhile

    def has(self, name: str) -> bool:
        if (self.path / name).is_file():
            return True
        elsewhere = None if self.path.exists() else find(self.path)
        return elsewhere is not None and elsewhere.has(name)


class _Packed(Files):
    def __init__(self, pack: "_Pack", run: str):
        self.pack, self.path = pack, pack.path.parent / run

    def read(self, name: str) -> bytes:
        return self.pack.read(self.path.name, name)

    def has(self, name: str) -> bool:
        return name in self.pack.files[self.path.name]


def find(run: Path) -> Files | None:
    """The files of a run, wherever they are; None where there are none. Raises Damaged where the pack is."""
    if run.exists():
        return _Folder(run)
    pack = open_pack(run.parent)
    return _Packed(pack, run.name) if pack and run.name in pack.files else None


def files(run: Path) -> Files:
    """The same. Raises FileNotFoundError where there are none."""
    return find(run) or _Folder(run)


def hides(run: Path) -> bool:
    """Whether a directory of this run would hide what is packed, or may be."""
    try:
        return (pack := open_pack(run.parent)) is not None and run.name in pack.files
    except Damaged:
        return True


def runs_of(folder: Path) -> list[Path]:
    """The runs of an experiment that have a meta.json, in directories or packed. Raises Damaged where the pack is."""
    runs = {
        path.parent.name for path in folder.glob(f"[!.]*/{META}")
    }  # before the pack, into which they may go meanwhile
    pack = open_pack(folder)
    return [folder / run for run in sorted(runs | set(pack.files if pack else ())) if files(folder / run).has(META)]


def packed(folder: Path) -> list[Path]:
    """The runs in an experiment's pack that have no directory. Raises Damaged where the pack is."""
    pack = open_pack(folder)
    return [folder / run for run in sorted(pack.files) if not (folder / run).exists()] if pack else []


class _Pack:
    """`files`: name -> entry of each run's files. Takes the file, open, at this path."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path = path
        weakref.finalize(self, file.close)
        self.files: dict[str, dict[str, zipfile.ZipInfo]] = {}
        try:
            self.zip = zipfile.ZipFile(file)
        except OSError as error:
            raise _unreadable(path, error) from error
        except ZIP_ERRORS as error:
            if isinstance(error.__context__, OSError):  # of which zipfile says that it is no zip file
                raise _unreadable(path, error.__context__) from error
            reason = f"is damaged ({error}); delete it, and the same commands train its runs again"
            raise Damaged(errno.EIO, reason, str(path)) from error
        for info in self.zip.infolist():
            run, _, name = info.filename.partition("/")
            if info.is_dir():  # as other programs write them
                continue
            if not (PLAIN.fullmatch(run) and PLAIN.fullmatch(name)):
                raise Damaged(
                    errno.EIO, f"holds {info.filename!r}, which is no file of a run; do not use it", str(path)
                )
            self.files.setdefault(run, {})[name] = info

    def read(self, run: str, name: str) -> bytes:
        path = self.path / run / name
        if (info := self.files.get(run, {}).get(name)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        check_size(path, info.file_size)
        try:
            return self.zip.read(info)
        except ZIP_ERRORS as error:
            raise Damaged(errno.EIO, f"is damaged ({error})", str(path)) from error

    def run(self, run: str) -> dict[str, bytes]:
        return {name: self.read(run, name) for name in self.files[run]}


def _unreadable(path: Path, error: OSError) -> Unreadable:
    return Unreadable(error.errno, f"cannot be opened ({error.strerror})", str(path))


_packs: OrderedDict[Path, tuple[tuple[int, ...], _Pack]] = OrderedDict()


def open_pack(folder: Path) -> _Pack | None:
    """The experiment's, as it is now; None where there is none. Raises Damaged.

    It is opened each time, for NFS says then alone what another machine has made of it, and its index read where it is new.
    """
    path = folder / NAME
    try:
        # Runs are read one after the other, as they lie there: by large pieces, for each may come over a network.
        file = path.open("rb", buffering=PIECE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    status = os.fstat(file.fileno())
    # Each process reads its own: of a file that is open in two, one moves the other's position.
    version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, os.getpid())
    known = _packs.get(path)
    if known and known[0] == version:
        file.close()
        return known[1]
    pack = _Pack(path, file)
    _packs[path] = version, pack
    _packs.move_to_end(path)
    while len(_packs) > MOST_OPEN:
        _packs.popitem(last=False)
    return pack

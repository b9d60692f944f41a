"""Packs: the finished runs of an experiment in one file, `packed.zip`, which is read as if their directories were there.

File systems of clusters count files and are slow to open them; a run has four. A pack holds `<run_id>/<file>` as the directories
did, so that any unzip brings them back. A directory that is there, too, comes first: it was trained later.
"""

import errno
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from runner.store.files import check_size, read_file

META = "meta.json"
NAME = "packed.zip"
PACKED = ".packed-"  # begins the name of a directory that is in the pack already
PIECE = 2**20  # bytes
SMALL = (".yaml", ".json")  # and compressed; tables and weights hold what hardly compresses


class Damaged(OSError):
    """A pack, or a file in it, that cannot be read as such."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}; delete it, and the same commands train its runs again"


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
        return (self.path / name).is_file()


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
    pack = _pack(run.parent)
    return _Packed(pack, run.name) if pack and run.name in pack.files else None


def files(run: Path) -> Files:
    """The same. Raises FileNotFoundError where there are none."""
    return find(run) or _Folder(run)


def runs_of(folder: Path) -> list[Path]:
    """The runs of an experiment that have a meta.json, in directories or packed. Raises Damaged where the pack is."""
    pack = _pack(folder)
    runs = {path.parent.name for path in folder.glob(f"[!.]*/{META}")} | set(pack.files if pack else ())
    return [folder / run for run in sorted(runs) if files(folder / run).has(META)]


def packed(folder: Path) -> list[Path]:
    """The runs in an experiment's pack that have no directory. Raises Damaged."""
    pack = _pack(folder)
    return [folder / run for run in sorted(pack.files) if not (folder / run).exists()] if pack else []


def write(folder: Path, runs: Mapping[str, Sequence[str]]) -> None:
    """Put these files of runs, which are directories, into the experiment's pack, beside what is there, and remove the
    directories. Raises OSError; then the directories stay.

    Whoever calls it has the runs' claims, and lets no other write the pack.
    """
    before, new = _pack(folder), folder / f".{NAME}-new"
    try:
        with zipfile.ZipFile(new, "w") as file:
            for run, names in sorted({**(before.files if before else {}), **runs}.items()):
                for name in sorted(names):
                    data = read_file(folder / run / name) if run in runs else before.read(run, name)
                    kind = zipfile.ZIP_DEFLATED if name.endswith(SMALL) else zipfile.ZIP_STORED
                    file.writestr(zipfile.ZipInfo(f"{run}/{name}"), data, kind)
        with new.open("rb") as written:
            os.fsync(written.fileno())  # before what it stands for goes
        new.rename(folder / NAME)
    finally:
        new.unlink(missing_ok=True)
    for run in runs:
        (folder / run).rename(folder / f"{PACKED}{run}")  # at once: half of a directory would hide what is packed
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove directories that are in the pack, also those of a process that was killed at it."""
    for path in folder.glob(f"{PACKED}*"):
        shutil.rmtree(path, ignore_errors=True)


class _Pack:
    """`files`: name -> entry of each run's files."""

    def __init__(self, path: Path):
        self.path = path
        self.files: dict[str, dict[str, zipfile.ZipInfo]] = {}
        with _as_damage(path):
            # Runs are read one after the other, as they lie there: by large pieces, for each may come over a network.
            self.file = path.open("rb", buffering=PIECE)
            self.zip = zipfile.ZipFile(self.file)
            for info in self.zip.infolist():
                run, _, name = info.filename.partition("/")
                self.files.setdefault(run, {})[name] = info

    def __del__(self) -> None:
        self.file.close()

    def read(self, run: str, name: str) -> bytes:
        path = self.path / run / name
        if (info := self.files.get(run, {}).get(name)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        check_size(path, info.file_size)
        with _as_damage(self.path):
            return self.zip.read(info)


def _pack(folder: Path) -> _Pack | None:
    """The experiment's, as it is now. Raises Damaged."""
    try:
        status = (folder / NAME).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Each process reads its own: of a file that is open in two, one moves the other's position.
    return _opened(folder / NAME, (status.st_ino, status.st_size, status.st_mtime_ns), os.getpid())


@lru_cache(maxsize=4)
def _opened(path: Path, version: tuple[int, ...], process: int) -> _Pack:
    return _Pack(path)


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """What zipfile finds wrong, as an error that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise Damaged(errno.EIO, f"is damaged ({error})", str(path)) from error

"""Finished runs into their experiment's pack, and out of it. Whoever calls this has claimed the pack, so that no other writes it.

At any moment, and after a power cut, each run is in its directory or in the pack.
"""

import errno
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from runner.store.packs import NAME, Damaged, open_pack, packed

NEW = ".packing-"  # begins the name of a pack that is not complete
PACKED = ".packed-"  # begins the name of a directory that is in the pack already
SMALL = (".yaml", ".json")  # and compressed; tables and weights hold what hardly compresses


def write(folder: Path, runs: Mapping[str, Callable[[], Mapping[str, bytes]]], check: Callable[..., None]) -> list[str]:
    """Put the files of these runs, which are directories, into the experiment's pack, beside what is there, and remove the
    directories; returns which runs of the old pack were left out, because they are damaged.

    Raises OSError, and what `check` raises if this process may no longer change the pack, and the runs that it is given; then the
    directories stay.
    """
    before, new = open_pack(folder), folder / f"{NEW}{secrets.token_hex(4)}"
    left_out = []
    try:
        with zipfile.ZipFile(new, "x") as file:
            for run in sorted({*(before.files if before else ()), *runs}):
                if run in runs:
                    contents = runs[run]()
                else:
                    try:
                        contents = before.run(run)
                    except Damaged:
                        left_out.append(run)
                        continue
                for name, data in sorted(contents.items()):
                    kind = zipfile.ZIP_DEFLATED if name.endswith(SMALL) else zipfile.ZIP_STORED
                    file.writestr(zipfile.ZipInfo(f"{run}/{name}"), data, kind)
        _sync(new)  # before what it stands for goes
        with zipfile.ZipFile(new) as file:
            if broken := file.testzip():
                raise OSError(errno.EIO, f"{broken} was not written as it is", str(new))
        check(*runs)
        new.rename(folder / NAME)
    finally:
        new.unlink(missing_ok=True)
    _sync(folder)
    for run in runs:
        check(run)
        (folder / run).rename(folder / f"{PACKED}{run}")  # at once: half of a directory would hide what is packed
    sweep(folder)
    return left_out


def undo(folder: Path, check: Callable[..., None]) -> tuple[int, list[str]]:
    """Make directories of what is packed, but for runs that have one, and remove the pack; how many, and which were left out,
    because they are damaged. Raises OSError, and what `check` raises; then the pack stays."""
    pack, runs, left_out = open_pack(folder), packed(folder), []
    check(*(run.name for run in runs))
    for run in runs:
        shutil.rmtree(new := folder / f".{run.name}-new", ignore_errors=True)
        new.mkdir()
        try:
            for name, data in pack.run(run.name).items():
                (new / name).write_bytes(data)
                _sync(new / name)
        except Damaged:
            shutil.rmtree(new)
            left_out.append(run.name)
            continue
        check(run.name)
        new.rename(run)
    _sync(folder)
    check()
    (folder / NAME).unlink(missing_ok=True)
    return len(runs) - len(left_out), left_out


def _sync(path: Path) -> None:
    """Wait until a file's contents, or a directory's names, are on the disk: only then does what it replaces go."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sweep(folder: Path) -> None:
    """Remove directories that are in the pack, and what a process that was killed at it left. The caller may write the pack."""
    for path in folder.glob(f"{PACKED}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{NEW}*"):
        path.unlink(missing_ok=True)

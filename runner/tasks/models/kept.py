"""What is made here and kept under `bases`: once each, by one process while others wait, and whole or not there at all."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from runner.config import ConfigError
from runner.core.messages import say

BASE = "base.json"  # what shaped it, and SHA-256 of its files
CHECKPOINT = "model.safetensors"


class BusyError(Exception):
    """Another process is making it."""


def once(folder: Path, make: Callable[[Path], dict[str, Any]], file: str = CHECKPOINT, wait: bool = True) -> Path:
    """The folder, which holds `file`, made if it is not there yet or is damaged. Raises ConfigError where it cannot be written,
    and BusyError where another process is making it and `wait` is false.

    `make` is given a folder to write to, and returns what is to be known of it.
    """
    if is_intact(folder, file):
        return folder
    try:
        with _only_one(folder, wait):
            if not is_intact(folder, file):
                _make(folder, make)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"bases={folder.parent}: cannot write {folder} ({reason}); choose a folder you can write to"
        ) from error
    return folder


def _make(folder: Path, make: Callable[[Path], dict[str, Any]]) -> None:
    """Make it in a hidden folder, and rename that when it is whole."""
    if folder.exists():
        say(f"damaged, made again: {folder}")
    new = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    try:
        known = make(new)
        checksums = {path.name: _sha256(path) for path in sorted(new.iterdir())}
        (new / BASE).write_text(json.dumps({**known, "sha256": checksums}, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def is_intact(folder: Path, file: str = CHECKPOINT) -> bool:
    """Whether it is there, whole, and as it was written."""
    try:
        checksums = json.loads((folder / BASE).read_bytes())["sha256"]
        return file in checksums and all(_sha256(folder / n) == sum for n, sum in checksums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _only_one(folder: Path, wait: bool) -> Iterator[None]:
    """Held by one process at a time; the system lets go when it ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # as file systems have it
            raise BusyError from error
        yield

"""Files are read if they are files, of a size that can be meant, and written whole or not at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Bytes of a file that can be meant. Configurations and summaries have thousands; YAML takes 20 seconds a megabyte to read.
MOST, TABLE = {".yaml": 2**16, ".json": 2**20}, 2**30


def contents(path: Path) -> bytes:
    """A file's contents. Raises OSError, with its name, also where it is a folder, a pipe or a device, or too large.

    It is opened without waiting: a pipe that nobody writes to would not let go.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        most = MOST.get(path.suffix, TABLE)
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"has {status.st_size} bytes, more than {most}", str(path))
        return file.read(most)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Where to write what is to become the file: it is there whole afterwards, or as it was. Raises OSError with its name."""
    new = path.with_name(f".new-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield new
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:  # those of libraries may know neither the file nor a number
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error

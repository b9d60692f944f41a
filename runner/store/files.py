"""Files of runs, read with care: others may have put anything in their places."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import yaml

MOST = 2**20  # bytes of a file of text, which has thousands


def read_file(path: Path) -> bytes:
    """A file's contents. Raises OSError also where it is a folder, a pipe or a device, or too large for a file of text.

    It is opened without waiting: a pipe that nobody writes to would not let go.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        if path.suffix in (".json", ".yaml") and status.st_size > MOST:
            raise OSError(errno.EFBIG, f"has {status.st_size} bytes, more than {MOST}", str(path))
        return file.read()


def read_fields(text: bytes) -> dict[str, Any]:
    """What a config.yaml holds. Raises ValueError and yaml.YAMLError.

    The runner writes no aliases, with which a short text may stand for any number of values.
    """
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ValueError("config.yaml has aliases")
    tree = yaml.safe_load(text)
    if not isinstance(tree, dict):
        raise ValueError("config.yaml holds no fields")
    return tree

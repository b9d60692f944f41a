"""Files of runs and records, read with care: others may have put anything in their places."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import yaml

# Bytes of a file that can be meant. Configurations and summaries have thousands; YAML takes 20 seconds a megabyte to read.
MOST = {".yaml": 2**16, ".json": 2**20, ".parquet": 2**30}


def read_file(path: Path) -> bytes:
    """A file's contents. Raises OSError, with its name, also where it is a folder, a pipe or a device, or too large.

    It is opened without waiting: a pipe that nobody writes to would not let go.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        check_size(path, status.st_size)
        return file.read(MOST.get(path.suffix, status.st_size))


def check_size(path: Path, size: int) -> None:
    """Raises OSError where a file of this name has more bytes than can be meant."""
    if size > (most := MOST.get(path.suffix, size)):
        raise OSError(errno.EFBIG, f"has {size} bytes, more than {most}", str(path))


class _Loader(yaml.SafeLoader):
    """Knows no aliases, with which a short text may stand for any number of values; the runner writes none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("config.yaml has aliases")
        return super().compose_node(parent, index)


def read_fields(text: bytes) -> dict[str, Any]:
    """What a config.yaml holds. Raises ValueError, yaml.YAMLError, and RecursionError where it is nested too deeply."""
    tree = yaml.load(text, _Loader)
    if not isinstance(tree, dict):
        raise ValueError("config.yaml holds no fields")
    return tree

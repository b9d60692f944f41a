"""Where files go, and that they are written whole or not at all."""

import argparse
import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def destination(options: argparse.Namespace) -> Path:
    """The folder for figures: one for each experiment that is named, and in it one for each choice of runs."""
    folder = options.outputs / "figures" / (options.experiment or "")
    chosen = " ".join(map(str, options.where))
    return folder / re.sub(r"[^\w.=,+-]+", "_", chosen)[:100] if chosen else folder

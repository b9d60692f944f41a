"""The runs of a folder that have no result which could be read."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from analysis.tables.load import DAMAGE, opened, run_folders


def unread(path: Path, run_ids: Collection[str]) -> dict[str, int]:
    """Status -> number of the runs under the folder `path` besides these; `damaged` where it cannot be told."""
    others = [folder for folder in run_folders(path) if folder.name not in run_ids]
    return dict(Counter(map(_status, others)).most_common())


def _status(folder: Path) -> str:
    try:
        status = opened(folder)[1]["status"]
        return status if status in ("failed", "interrupted") else "damaged"
    except DAMAGE:
        return "damaged"

"""Where text comes from: Python's own sources, or a data set that `datasets` loads."""

import glob
import hashlib
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.config import ConfigError
from runner.core.messages import first_line
from runner.tasks.models.options import ModelOptions

PYTHON_STDLIB = "python_stdlib"
HELD_OUT = 10  # one in so many files of the standard library, or rows of a data set without a split for it
FORMATS = {".json": "json", ".jsonl": "json", ".txt": "text", ".parquet": "parquet", ".csv": "csv"}


def documents(task: ModelOptions) -> tuple[list[str], list[str]]:
    """(training, held-out) texts."""
    if task.dataset == PYTHON_STDLIB:
        return python_sources()
    training, held_out = (
        ["\n".join(parts) for parts in zip(*(texts(task, part, name) for name in task.text_columns), strict=True)]
        for part in rows(task, task.text_columns)
    )
    return training, held_out


def python_sources() -> tuple[list[str], list[str]]:
    """(training, held-out) files of Python's standard library, without its tests; a file is in one of the two, by its name."""
    root = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[str], list[str]] = ([], [])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if {"site-packages", "dist-packages", "test", "tests", "idle_test"} & set(name.parts):
            continue
        digest = hashlib.sha256(name.as_posix().encode()).digest()
        parts[digest[0] % HELD_OUT == 0].append(path.read_bytes().decode(errors="replace"))
    return parts


def texts(task: ModelOptions, part: Any, column: str) -> list[str]:
    """A column of rows, which must hold nothing but text."""
    found = list(part[column])
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise ConfigError(
                f"task.text_columns={column}: row {i} of {task.dataset} holds {text!r:.60}, which is no text; leave such rows out"
            )
    return found


def rows(task: ModelOptions, columns: Sequence[str]) -> tuple[Any, Any]:
    """(training, held-out) rows of a data set: by name from the hub, from a folder or from files. Raises ConfigError."""
    files, what = sorted(glob.glob(task.dataset)), f"task.dataset={task.dataset}"
    held_out = None
    if task.eval_dataset is not None:
        held_out = _load_files(f"task.eval_dataset={task.eval_dataset}", sorted(glob.glob(task.eval_dataset)))
    if Path(task.dataset).is_dir() or not files:
        training = _load(what, task.dataset, task.subset, split=task.train_split)
        held_out = held_out or _load(what, task.dataset, task.subset, split=task.eval_split)
    else:
        training = _load_files(what, files)
    if held_out is None:
        n_train = len(training) - max(1, len(training) // HELD_OUT)
        training, held_out = training.select(range(n_train)), training.select(range(n_train, len(training)))
    for part in (training, held_out):
        for column in columns:
            if column not in part.column_names:
                is_label = column == getattr(task, "label_column", None)
                raise ConfigError(
                    f"task.{'label_column' if is_label else 'text_columns'}={column}: {task.dataset} has no such column; it has "
                    f"{', '.join(part.column_names)}"
                )
    return training, held_out


def _load_files(what: str, files: Sequence[str]) -> Any:
    kinds = {FORMATS.get(Path(file).suffix) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise ConfigError(
            f"{what}: {len(files)} files there{', ' * bool(files)}{', '.join(sorted({Path(file).name for file in files})[:5])}; "
            f"give files of one kind out of {', '.join(FORMATS)}"
        )
    return _load(what, kinds.pop(), data_files={"train": list(files)}, split="train")


def _load(what: str, *arguments: Any, **options: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:  # the library's, the network's, and those of malformed files
        raise ConfigError(
            f"{what}: cannot be loaded ({first_line(error.__cause__ or error)}); give {PYTHON_STDLIB}, the name of a data set on "
            "the hub or a folder (with task.subset, task.train_split, and task.eval_split or task.eval_dataset), or files: "
            f"{', '.join(FORMATS)}"
        ) from error

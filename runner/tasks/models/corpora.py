"""Where text comes from: Python's own sources, movie reviews of a package, or a data set that `datasets` loads."""

import csv
import glob
import hashlib
import logging
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runner.config import ConfigError
from runner.config.compose import CONF
from runner.config.options import shown
from runner.core.messages import first_line
from runner.tasks.models import hub, packages, reviews
from runner.tasks.models.options import ModelOptions

PYTHON_STDLIB = "python_stdlib"
HELD_OUT = 10  # one in so many files of the standard library, or rows of a data set without a split for it
FORMATS = {".json": "json", ".jsonl": "json", ".txt": "text", ".parquet": "parquet", ".csv": "csv"}
GIVE = (
    f"give {PYTHON_STDLIB}, {reviews.MOVIE_REVIEWS}, the name of a data set on the hub or a folder (with task.subset, "
    f"task.train_split, and task.eval_split or task.eval_dataset), or files: {', '.join(FORMATS)}"
)


@dataclass(frozen=True)
class Part:
    """Rows of a data set for training or held out: `table[i]` is row `first + i` of what the user named by `field`."""

    field: str
    table: Any
    first: int = 0

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> list[Any]:
        """Its values. Raises ConfigError where they are no text that was encoded as text is."""
        try:
            return list(self.table[name])
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{self.field}: its column {name!r} is not in UTF-8 ({error}); convert the file"
            ) from error

    def select(self, start: int, end: int) -> "Part":
        return Part(self.field, self.table.select(range(start, end)), self.first + start)

    def row(self, place: int) -> str:
        """Of a message."""
        return f"row {self.first + place} of {self.field}, counted from 0,"


def documents(task: ModelOptions) -> tuple[list[str], list[str]]:
    """(training, held-out) texts."""
    if task.dataset == PYTHON_STDLIB:
        return python_sources()
    training, held_out = (
        ["\n".join(parts) for parts in zip(*(texts(part, name) for name in task.text_columns), strict=True)]
        for part in rows(task, task.text_columns)
    )
    return training, held_out


@cache  # for the many stacks of a sweep: to find the files takes most of a second
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


def texts(part: Part, column: str) -> list[str]:
    """A column of rows, which must hold nothing but text."""
    found = part.column(column)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise ConfigError(
                f"task.text_columns={column}: {part.row(i)} holds {text!r:.60}, which is no text; leave such rows out"
            )
    return found


def check_fields(task: ModelOptions) -> None:
    """Raise ConfigError for fields that the data have no use for: set, they would be ignored, and yet make another run."""
    for field, reason in _unused(task).items():
        if (value := getattr(task, field)) != (usual := _usual(task.name)[field]):
            raise ConfigError(f"task.{field}={shown(value)}: {reason}; set task.{field}={shown(usual)}")
    if packages.find("task.dataset", task.dataset):
        reviews.check_subset(task.dataset, task.subset)


def _unused(task: ModelOptions) -> dict[str, str]:
    """Field -> why it says nothing about these data."""
    unused = {}
    if task.eval_dataset is not None:
        unused["eval_split"] = f"is not used, because all rows of task.eval_dataset={task.eval_dataset} are held out"
    if packages.find("task.dataset", task.dataset):
        reason = f"is for data sets on the hub or in a folder; of task.dataset={task.dataset} a tenth is held out"
        unused |= dict.fromkeys(("train_split", "eval_split"), reason)
    elif task.dataset == PYTHON_STDLIB or _files(task.dataset):
        reason = f"is for data sets on the hub or in a folder, and task.dataset={task.dataset} is neither"
        unused |= dict.fromkeys(("subset", "train_split", "eval_split"), reason)
    if task.dataset == PYTHON_STDLIB:
        reason = f"is for data of your own; task.dataset={PYTHON_STDLIB} has no columns, and a tenth of its files is held out"
        unused |= dict.fromkeys(("eval_dataset", "text_columns"), reason)
    return unused


@cache
def _usual(task: str) -> Any:
    """The fields of the task as its YAML file has them, which takes longer to read than all checks of a run."""
    return OmegaConf.to_container(OmegaConf.load(CONF / "task" / f"{task}.yaml"))


def rows(task: ModelOptions, columns: Sequence[str]) -> tuple[Part, Part]:
    """(training, held-out) rows: of a package, of files, or of a data set in a folder or on the hub. Raises ConfigError."""
    field, held_out = f"task.dataset={task.dataset}", None
    if task.eval_dataset is not None:
        field_of_held_out = f"task.eval_dataset={task.eval_dataset}"
        held_out = _load_files(field_of_held_out, _files(task.eval_dataset))
    packaged = packages.find("task.dataset", task.dataset)
    if packaged or (files := _files(task.dataset)):
        training = Part(field, reviews.table(task.dataset, task.subset)) if packaged else _load_files(field, files)
        if held_out is None:
            training, held_out = _split(training)
    elif _names_files(task.dataset):
        raise ConfigError(f"{field}: there is no such file; {GIVE}")
    else:
        training = _load(field, task.dataset, task.subset, split=task.train_split)
        held_out = held_out or _load(field, task.dataset, task.subset, split=task.eval_split)
    for part in (training, held_out):
        for column in columns:
            if column not in (names := part.table.column_names):
                is_label = column == getattr(task, "label_column", None)
                raise ConfigError(
                    f"task.{'label_column' if is_label else 'text_columns'}={column}: {part.field} has no such "
                    f"column; it has {', '.join(names)}"
                )
    return training, held_out


def _split(part: Part) -> tuple[Part, Part]:
    """All rows but the last tenth, and these."""
    if len(part) < 2:
        raise ConfigError(
            f"{part.field}: has {len(part)} row{'s' * (len(part) != 1)} (of a text file, a line is one), and two are needed, one "
            "of them held out; give more rows, or held-out files as task.eval_dataset"
        )
    training = len(part) - max(1, len(part) // HELD_OUT)
    return part.select(0, training), part.select(training, len(part))


def _files(pattern: str) -> list[str]:
    """The files that it names: one of this name, or else all that match it."""
    if Path(pattern).is_file():
        return [pattern]
    return sorted(file for file in glob.glob(pattern) if Path(file).is_file())


def _names_files(name: str) -> bool:
    """Whether what is not there is meant to be files, and no data set on the hub."""
    if Path(name).is_dir():
        return name == ""
    return Path(name).suffix.lower() in FORMATS or glob.has_magic(name) or not hub.is_name(name)


def _load_files(field: str, files: Sequence[str]) -> Part:
    kinds = {FORMATS.get(Path(file).suffix.lower()) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise ConfigError(
            f"{field}: {len(files)} files there{', ' * bool(files)}{', '.join(sorted({Path(file).name for file in files})[:5])}; "
            f"give files of one kind out of {', '.join(FORMATS)}"
        )
    if empty := [file for file in files if not Path(file).stat().st_size]:
        raise ConfigError(f"{field}: {empty[0]} is empty; give files with rows")
    [kind] = kinds
    for file in files if kind == "csv" else ():
        _check_header(field, file)
    marks = (
        {"encoding": "utf-8-sig"} if kind == "text" else {}
    )  # of the byte order, which other kinds leave out themselves
    # escaped, because the library takes names for patterns
    return _load(field, kind, data_files={"train": [glob.escape(file) for file in files]}, split="train", **marks)


def _check_header(field: str, file: str) -> None:
    """Raise ConfigError where a CSV file names a column twice; the library would give the second another name."""
    try:
        with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
            names = next((row for row in csv.reader(lines) if len(row) > 1 or "".join(row).strip()), [])
    except csv.Error as error:
        raise ConfigError(f"{field}: {file} has no first row with the names of its columns ({error})") from error
    if twice := [name for i, name in enumerate(names) if name and name in names[:i]]:
        raise ConfigError(f"{field}: {file} has this column twice: {twice[0]!r:.60}; give one of them another name")


def _load(field: str, *arguments: Any, **options: Any) -> Part:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it has to say comes as an error, too
    if "data_files" not in options and not Path(arguments[0]).is_dir():
        hub.ask()
    try:
        return Part(field, datasets.load_dataset(*arguments, **options))
    except Exception as error:  # the library's, the network's, and those of malformed files
        raise ConfigError(f"{field}: cannot be loaded ({first_line(error.__cause__ or error)}); {GIVE}") from error

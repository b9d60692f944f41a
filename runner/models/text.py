"""Text for language models: documents, tokens, and the order in which runs see them."""

import glob
import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.models import library
from runner.models.blueprint import LLAMA_TINY
from runner.rng import generator
from runner.schema import ClassificationConfig, ConfigError, ModelConfig

PYTHON_STDLIB = "python_stdlib"
HELD_OUT = 10  # one in so many files of the standard library, or rows of a data set without a split for it
FORMATS = {".json": "json", ".jsonl": "json", ".txt": "text", ".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class Examples:
    """Token sequences (M, T), int32; for classification also which tokens are there (M, T) and the labels (M,)."""

    tokens: Tensor
    mask: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device) -> "Examples":
        return Examples(*(None if t is None else t.to(device) for t in (self.tokens, self.mask, self.labels)))

    def pick(self, count: int) -> "Examples":
        """`count` of them, evenly spaced, or all."""
        rows = torch.linspace(0, len(self) - 1, min(count, len(self))).round().long()
        return Examples(*(None if t is None else t[rows] for t in (self.tokens, self.mask, self.labels)))


class Order:
    """Which examples a run sees at a step: a new permutation every epoch, a function of seed and epoch."""

    def __init__(self, seeds: Sequence[int], examples: int, batch: int):
        self.seeds, self.examples, self.batch = seeds, examples, batch
        self.permutation = lru_cache(2 * len(set(seeds)))(self._permutation)

    def _permutation(self, seed: int, epoch: int) -> Tensor:
        return torch.randperm(self.examples, generator=generator(seed, f"order/{epoch}"))

    def at(self, step: int) -> Tensor:
        """(K, batch) positions."""
        places = torch.arange(step * self.batch, (step + 1) * self.batch)
        rows = [
            torch.stack([self.permutation(seed, int(p) // self.examples)[int(p) % self.examples] for p in places])
            for seed in dict.fromkeys(self.seeds)
        ]
        by_seed = dict(zip(dict.fromkeys(self.seeds), rows, strict=True))
        return torch.stack([by_seed[seed] for seed in self.seeds])


@lru_cache(1)
def packed(source: "Source") -> tuple[Examples, Examples]:
    """(training, held-out) for a causal language model: documents end to end, cut to the sequence length."""
    task, tokenizer = source.task, source.tokenizer()
    parts = []
    for documents in _documents(task):
        if tokenizer is None:
            tokens = torch.frombuffer(bytearray("\n".join(documents).encode()), dtype=torch.uint8)
        else:
            end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
            encoded = tokenizer(documents, add_special_tokens=False, return_attention_mask=False)["input_ids"]
            tokens = torch.tensor([token for document in encoded for token in (*document, *end)], dtype=torch.int32)
        whole = len(tokens) // task.sequence_length
        parts.append(Examples(tokens[: whole * task.sequence_length].view(-1, task.sequence_length).int()))
        what = "task.dataset" if len(parts) == 1 else "held-out part of task.dataset"
        needed = task.batch_size if len(parts) == 1 else 1
        if whole < needed:
            raise ConfigError(
                f"{what}={task.dataset}: its {len(tokens)} tokens make {whole} sequences of {task.sequence_length}, and "
                f"{needed} are needed; lower task.sequence_length or task.batch_size, or give more text"
            )
    return parts[0], parts[1]


@lru_cache(1)
def labelled(source: "Source") -> tuple[Examples, Examples]:
    """(training, held-out) for classification: one example a row, cut or padded to the sequence length."""
    task, tokenizer = source.task, source.tokenizer()
    parts = []
    for rows in _rows(task, [*task.text_columns, task.label_column]):
        texts = [list(rows[name]) for name in task.text_columns]
        if tokenizer is None:
            ids = [list("\n".join(pair).encode()[: task.sequence_length]) for pair in zip(*texts, strict=True)]
            padding = 0
        else:
            cut = {"truncation": True, "max_length": task.sequence_length}
            ids, padding = tokenizer(*texts, **cut)["input_ids"], tokenizer.pad_token_id
        labels = torch.tensor(list(rows[task.label_column]))
        if labels.is_floating_point() or len(labels) == 0 or labels.min() < 0 or labels.max() >= task.labels:
            raise ConfigError(
                f"task.labels={task.labels}: the column {task.label_column!r} of {task.dataset} holds "
                f"{sorted(set(labels.tolist()))[:10]}; the labels must be integers from 0 to task.labels - 1"
            )
        tokens = torch.full((len(ids), task.sequence_length), padding, dtype=torch.int32)
        mask = torch.zeros(len(ids), task.sequence_length, dtype=torch.bool)
        for i, row in enumerate(ids):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        parts.append(Examples(tokens, mask, labels))
    if len(parts[0]) < task.batch_size:
        raise ConfigError(
            f"task.batch_size={task.batch_size}: task.dataset={task.dataset} has {len(parts[0])} rows only"
        )
    return parts[0], parts[1]


@dataclass(frozen=True)
class Source:
    """A task's text, as something to look up what was read of it."""

    fields: str
    task: ModelConfig

    def __hash__(self) -> int:
        return hash(self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and self.fields == other.fields

    @classmethod
    def of(cls, task: ModelConfig) -> "Source":
        return cls(repr(task), task)

    def tokenizer(self) -> Any:
        """The checkpoint's own; None for llama_tiny, whose tokens are bytes. Raises ConfigError."""
        if self.task.model == LLAMA_TINY:
            return None
        try:
            tokenizer = library().AutoTokenizer.from_pretrained(self.task.model, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"task.model={self.task.model}: has no tokenizer that can be loaded ({error})") from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer


def _documents(task: ModelConfig) -> tuple[list[str], list[str]]:
    """(training, held-out) texts."""
    if task.dataset == PYTHON_STDLIB:
        return python_sources()
    training, held_out = (
        ["\n".join(map(str, parts)) for parts in zip(*(rows[name] for name in task.text_columns), strict=True)]
        for rows in _rows(task, task.text_columns)
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


def _rows(task: ModelConfig, columns: Sequence[str]) -> tuple[Any, Any]:
    """(training, held-out) rows of a `datasets` data set: by name from the hub, from a folder or from files."""
    files = sorted(glob.glob(task.dataset))
    if Path(task.dataset).is_dir() or not files:
        name = task.dataset
        training = _load(task, name, task.subset, split=task.train_split)
        held_out = _load(task, name, task.subset, split=task.eval_split) if task.eval_dataset is None else None
    else:
        training, held_out = _load_files(task, files), None
    if task.eval_dataset is not None:
        held_out = _load_files(task, sorted(glob.glob(task.eval_dataset)))
    elif held_out is None:
        kept = len(training) - max(1, len(training) // HELD_OUT)
        training, held_out = training.select(range(kept)), training.select(range(kept, len(training)))
    for rows in (training, held_out):
        for column in columns:
            if column not in rows.column_names:
                field = (
                    "label_column"
                    if isinstance(task, ClassificationConfig) and column == task.label_column
                    else "text_columns"
                )
                raise ConfigError(
                    f"task.{field}={column}: {task.dataset} has no such column; it has {', '.join(rows.column_names)}"
                )
    return training, held_out


def _load_files(task: ModelConfig, files: Sequence[str]) -> Any:
    kinds = {FORMATS.get(Path(file).suffix) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise ConfigError(
            f"task.dataset={task.dataset}: {len(files)} files there; give files of one kind out of {', '.join(FORMATS)}"
        )
    return _load(task, kinds.pop(), data_files={"train": list(files)}, split="train")


def _load(task: ModelConfig, *arguments: Any, **options: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:  # the library's, the network's, and those of malformed files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"task.dataset={task.dataset}: cannot be loaded ({reason}); give {PYTHON_STDLIB}, the name of a data set on the "
            f"hub (with task.subset, task.train_split, task.eval_split), a folder, or files: {', '.join(FORMATS)}"
        ) from error

"""From texts to the token sequences that models read, and the order in which runs see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from runner.config import ConfigError
from runner.core.messages import first_line
from runner.core.rng import generator
from runner.tasks.models import bases, checkpoints, corpora, library
from runner.tasks.models.options import ModelOptions
from runner.tasks.models.spec import BYTES, LLAMA_TINY, configuration


@dataclass(frozen=True)
class Examples:
    """Token sequences (M, T), int32; for classification also which tokens are there (M, T), the labels (M,), and which text
    of a pair a token is of (M, T), for models that tell them apart."""

    tokens: Tensor
    mask: Tensor | None = None
    labels: Tensor | None = None
    segments: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device) -> "Examples":
        return self.each(lambda t: t.to(device))

    def pick(self, count: int) -> "Examples":
        """`count` of them, evenly spaced, or all."""
        return self.at(torch.linspace(0, len(self) - 1, min(count, len(self))).round().long())

    def at(self, rows: Tensor) -> "Examples":
        return self.each(lambda t: t[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Examples":
        return Examples(*(None if t is None else change(t) for t in vars(self).values()))


class Order:
    """Which examples a run sees at a step: a new permutation every epoch, a function of seed and epoch."""

    def __init__(self, seeds: Sequence[int], examples: int, batch: int):
        self.seeds, self.examples, self.batch = seeds, examples, batch
        self.permutation = lru_cache(2 * len(set(seeds)))(self._permutation)

    def _permutation(self, seed: int, epoch: int) -> Tensor:
        return torch.randperm(self.examples, generator=generator(seed, f"order/{epoch}"))

    def at(self, step: int) -> Tensor:
        """(K, batch) positions."""
        places = [divmod(place, self.examples) for place in range(step * self.batch, (step + 1) * self.batch)]
        rows = {
            seed: torch.stack([self.permutation(seed, epoch)[i] for epoch, i in places]) for seed in set(self.seeds)
        }
        return torch.stack([rows[seed] for seed in self.seeds])


@dataclass(frozen=True)
class Source:
    """A task's text, as something to look up what was read of it; `bases`: where models that are made here are kept."""

    fields: str
    task: ModelOptions
    bases: str

    def __hash__(self) -> int:
        return hash(self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and self.fields == other.fields

    @classmethod
    def of(cls, task: ModelOptions, bases: str) -> "Source":
        return cls(repr(task), task, bases)

    def tokenizer(self) -> Any:
        """The checkpoint's own; None for llama_tiny and bases made of it, whose tokens are bytes. Raises ConfigError."""
        model = self.task.model
        if model == LLAMA_TINY or getattr(configuration(model), "tokens", None) == BYTES:
            return None
        folder = checkpoints.folder(bases.place(self.task, self.bases))
        try:
            tokenizer = library().AutoTokenizer.from_pretrained(
                folder, config=configuration(model), trust_remote_code=False
            )
        except Exception as error:  # the library's own, and those of files that are not what they seem
            reason = "it comes with code, which is not run" if "remote_code" in str(error) else first_line(error)
            raise ConfigError(f"task.model={model}: has no tokenizer that can be loaded ({reason})") from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None and hasattr(self.task, "labels"):
            raise ConfigError(f"task.model={self.task.model}: its tokenizer has no token to pad texts with")
        return tokenizer


@lru_cache(1)
def packed(source: Source) -> tuple[Examples, Examples]:
    """(training, held-out) for a causal language model: documents end to end, cut to the sequence length."""
    task, tokenizer = source.task, source.tokenizer()
    parts = []
    for texts in corpora.documents(task):
        if tokenizer is None or not texts:
            text = "\n".join(texts).encode()
            tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        else:
            end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
            encoded = _encoded(task, tokenizer, texts, add_special_tokens=False, return_attention_mask=False)[
                "input_ids"
            ]
            tokens = torch.tensor([token for document in encoded for token in (*document, *end)], dtype=torch.int32)
        whole, needed = len(tokens) // task.sequence_length, 1 if parts else task.batch_size
        if whole < needed:
            field = "dataset" if task.eval_dataset is None or not parts else "eval_dataset"
            raise ConfigError(
                f"task.{field}={getattr(task, field)}: the {len(tokens)} tokens of its {'held-out' if parts else 'training'} "
                f"part make {whole} sequences of {task.sequence_length}, and {needed} are needed; lower task.sequence_length or "
                "task.batch_size, or give more text"
            )
        parts.append(Examples(tokens[: whole * task.sequence_length].view(-1, task.sequence_length).int()))
    return parts[0], parts[1]


@lru_cache(1)
def labelled(source: Source) -> tuple[Examples, Examples]:
    """(training, held-out) for classification: one example a row, cut or padded to the sequence length."""
    task, tokenizer = source.task, source.tokenizer()
    parts = []
    for part in corpora.rows(task, [*task.text_columns, task.label_column]):
        labels, needed = _labels(task, part), 1 if parts else task.batch_size
        if len(labels) < needed:
            raise ConfigError(
                f"{part.field}: its {'held-out' if parts else 'training'} part has {len(labels)} rows, and {needed} are needed; "
                "lower task.batch_size or give more rows"
            )
        texts = [corpora.texts(part, name) for name in task.text_columns]
        if empty := [i for i, row in enumerate(zip(*texts, strict=True)) if not any(text.strip() for text in row)]:
            raise ConfigError(
                f"task.text_columns={','.join(task.text_columns)}: {part.row(empty[0])} is empty (of {len(empty)} such rows); "
                "leave them out"
            )
        if tokenizer is None:
            encoded = {
                "input_ids": [
                    list("\n".join(pair).encode()[: task.sequence_length]) for pair in zip(*texts, strict=True)
                ]
            }
        else:
            encoded = _encoded(task, tokenizer, *texts, truncation=True, max_length=task.sequence_length)
        lengths = torch.tensor([len(row) for row in encoded["input_ids"]])
        mask = torch.arange(task.sequence_length) < lengths[:, None]
        tokens = _padded(encoded["input_ids"], 0 if tokenizer is None else tokenizer.pad_token_id, task)
        segments = _padded(encoded["token_type_ids"], 0, task) if "token_type_ids" in encoded else None
        parts.append(Examples(tokens, mask, labels, segments))
    return parts[0], parts[1]


def _encoded(task: ModelOptions, tokenizer: Any, *texts: list[str], **options: Any) -> Any:
    """What the tokenizer makes of the texts, or of pairs of them. Raises ConfigError."""
    try:
        return tokenizer(*texts, **options)
    except Exception as error:  # the library's own, of files that were loaded and make no sense
        raise ConfigError(
            f"task.model={task.model}: its tokenizer fails ({type(error).__name__}: {first_line(error)}); it is damaged"
        ) from error


def _labels(task: ModelOptions, part: corpora.Part) -> Tensor:
    labels = part.column(task.label_column)
    if not all(type(label) is int and 0 <= label < task.labels for label in labels):
        values = list(dict.fromkeys(map(repr, labels)))
        raise ConfigError(
            f"task.labels={task.labels}: the column {task.label_column!r} of {part.field} holds {', '.join(values[:10])}"
            f"{', …' * (len(values) > 10)}; the labels must be integers from 0 to task.labels - 1"
        )
    return torch.tensor(labels)


def _padded(rows: Sequence[Sequence[int]], padding: int, task: ModelOptions) -> Tensor:
    """(M, T) int32."""
    out = torch.full((len(rows), task.sequence_length), padding, dtype=torch.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
    return out

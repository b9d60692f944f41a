"""Small transformers checkpoints and data sets that tests write to disk, to be used by path as any other, and stacks on them."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from conftest import configure
from transformers import GPT2Config, LlamaConfig, PreTrainedTokenizerFast, RobertaConfig

from runner.config.registry import ADAPTERS, INITS
from runner.training.start import build_adapters
from runner.training.train import build_task

CPU, DOUBLE = torch.device("cpu"), torch.float64
SMALL = ["dtype=float64", "device=cpu", "steps=3"]
WORDS = "the a cat dog bird sees likes chases big small red and then it was good bad".split()
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = len(SPECIAL) + len(WORDS)

TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**TOKENS, **SIZES, num_key_value_heads=1, max_position_embeddings=64),
    "small gpt2": GPT2Config(**TOKENS, n_embd=32, n_layer=1, n_head=2, n_positions=64),
    "gpt2": GPT2Config(**TOKENS, n_embd=32, n_layer=2, n_head=2, n_positions=64),
    "roberta": RobertaConfig(**TOKENS, **SIZES, max_position_embeddings=66, type_vocab_size=1, num_labels=3),
}


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def checkpoint(folder: Path, kind: str, labels: int | None = None) -> Path:
    """A randomly initialized checkpoint with its tokenizer; its dropout is on in training mode, as a real one's is."""
    torch.manual_seed(0)
    kinds = transformers.AutoModelForCausalLM, transformers.AutoModelForSequenceClassification
    CONFIGS[kind].num_labels = labels or 2
    model = kinds[labels is not None].from_config(CONFIGS[kind])
    with torch.no_grad():
        for p in model.parameters():  # away from zero biases, so that every part of the network matters
            p += 0.05 * torch.randn_like(p)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def sentences(count: int, seed: int = 0) -> list[str]:
    chance = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(WORDS), (count, 12), generator=chance)
    return [" ".join(WORDS[i] for i in row) for row in picks.tolist()]


def rows(path: Path, count: int, seed: int = 0, columns: Sequence[str] = ("text",)) -> Path:
    """A JSON-lines file of sentences, the same in every column, with a label of two."""
    lines = [dict.fromkeys(columns, text) | {"label": i % 2} for i, text in enumerate(sentences(count, seed))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def adapter_of(init: str) -> str:
    """One that takes the init."""
    return next(name for name, kind in ADAPTERS.items() if set(INITS[init].parameters) <= kind.sides.keys())


def own(adapter: str, **fields) -> list[str]:
    """The choice of an adapter, and those of these fields that it has."""
    known = {field.name for field in dataclasses.fields(ADAPTERS.options[adapter])}
    return [f"adapter={adapter}", *(f"adapter.{name}={value}" for name, value in fields.items() if name in known)]


def overrides(folder, task: str, kind: str, targets: str = "all-linear", adapter: str = "lora") -> list[str]:
    labels = 3 if task == "classification" else None
    more = ["task.labels=3", "task.text_columns=[text]"] if labels else []
    model, data = checkpoint(folder / "model", kind, labels), rows(folder / "d.jsonl", 60)
    given = [f"task={task}", f"task.model={model}", f"task.dataset={data}", f"task.targets={targets}"]
    small = "task.sequence_length=16 task.batch_size=4 task.eval_sequences=6 probe.size=20".split()
    return [*given, *small, *more, *SMALL, *own(adapter, rank=3, alpha=6)]


def stack(folder, task: str, kind: str, targets: str = "all-linear", *more: str, adapter: str = "lora"):
    """A task, its configurations (two seeds; two alphas, keys or rates) and adapters with nothing at zero."""
    shared = overrides(folder, task, kind, targets, adapter)
    field = {"vera": "adapter.projection_key", "full": "optimizer.lr"}.get(adapter, "adapter.alpha")
    pairs = ((0, 6), (1, 2), (1, 6))
    configs = [configure(*shared, *more, f"seed={seed}", f"{field}={value}") for seed, value in pairs]
    task = build_task(configs).to(CPU, DOUBLE)
    adapters = build_adapters(configs, task, CPU, DOUBLE)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for adapter in adapters.values():
            for p in adapter.parameters.values():
                p += torch.randn(p.shape, generator=chance, dtype=DOUBLE) / 5
    return configs, task, adapters


def same(ours, theirs) -> None:
    """Relative to the largest entry: sums of a few thousand float64 terms in another order."""
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()

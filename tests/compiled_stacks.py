"""A small model whose step can be compiled in seconds, and stacks of runs on it."""

from pathlib import Path

from conftest import configure
from models import checkpoint, rows

from runner.config import Config

# GPT-2 keeps to float64. Llama takes its norms in float32 whatever it is asked for, and two engines differ by its rounding.
FIELDS = (
    "targets=[c_attn,mlp.c_proj] sequence_length=16 eval_sequences=4 batch_size=4 accumulation=2".split(),
    "steps=8 eval.every=4 checkpoint.minutes=0 dtype=float64 adapter.dropout=0.2 engine=compiled".split(),
)
MODEL = [*(f"task.{field}" for field in FIELDS[0]), *FIELDS[1]]


def make(folder: Path) -> Path:
    """The folder, with the model and its data; what is compiled for MODEL is kept there, too."""
    checkpoint(folder / "model", "small gpt2")
    rows(folder / "d.jsonl", 60)
    return folder


def of_model(bases: Path) -> list[str]:
    return [
        "task=language_model",
        f"task.model={bases}/model",
        f"task.dataset={bases}/d.jsonl",
        f"bases={bases}",
        *MODEL,
    ]


def stack(bases: Path, outputs: Path, *overrides: str) -> list[Config]:
    """Three runs, the last of which diverges."""
    shared = [*of_model(bases), f"outputs={outputs}", *overrides]
    return [configure(*shared, f"optimizer.lr={lr}", f"seed={seed}") for lr, seed in ((1e-2, 0), (1e-3, 1), (1e300, 0))]

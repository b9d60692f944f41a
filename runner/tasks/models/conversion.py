"""Models in GGUF, whose weights are a few bits each, to checkpoints in float32: once, and then they are checkpoints like any."""

import contextlib
import io
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from runner.config import ConfigError
from runner.core.messages import announce, first_line, say
from runner.tasks.models import kept, library, packages


def converted(model: str, bases: str) -> Path:
    """The checkpoint's folder, made if it is not there yet; one process does, others wait. Raises ConfigError."""
    folder, file = Path(bases) / model, packages.place("task.model", model)

    def make(new: Path) -> dict[str, Any]:
        say(f"converting {model} to float32: once, for {folder}")
        announce(f"converting {model}")
        network, tokenizer = _read(model, file)
        network.save_pretrained(new)
        tokenizer.save_pretrained(new)
        return {"model": model, "file": file.name, **{name: version(name) for name in ("gguf", "transformers")}}

    return kept.once(folder, make)


def _read(model: str, file: Path) -> tuple[Any, Any]:
    """(network, tokenizer) of a file in GGUF. Raises ConfigError."""
    package = packages.find("task.model", model)
    if find_spec("gguf") is None:
        raise ConfigError(
            f"task.model={model}: is converted with the package gguf, which is not installed; pip install gguf"
        )
    transformers = library()
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name, "local_files_only": True}
    whole = transformers.GgufConfig(dequantize=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that nothing else turns off
            network = transformers.AutoModelForCausalLM.from_pretrained(
                **source, quantization_config=whole, dtype=torch.float32
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # the library's, of a file that is not what it seems
        raise ConfigError(
            f"task.model={model}: {file} cannot be converted ({first_line(error)}); "
            f"{package.install(version(package.name))} --force-reinstall"
        ) from error
    for name, expected in package.described.items():
        if (found := getattr(network.config, name)) != expected:
            raise ConfigError(
                f"task.model={model}: {file} has {name}={found}, and {expected} is expected; {package.name} is another model now"
            )
    return network, tokenizer

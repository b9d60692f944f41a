"""Adapter folders as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

PEFT itself is not needed for either.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from runner.config import ConfigError
from runner.config.registry import ADAPTERS
from runner.core.messages import first_line

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Fill a folder; the tensors by PEFT's names."""
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def ranks(folder: Path) -> dict[str, int]:
    """Layer -> rank of its factors in the folder; none of VeRA's."""
    end = f".{ADAPTERS['lora'].peft_names['A']}"
    return {
        name.removeprefix(PREFIX).removesuffix(end): shape[0]
        for name, shape in shapes(folder).items()
        if name.endswith(end)
    }


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by PEFT's names. Raises ConfigError."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, WEIGHTS, error) from error


def description(folder: Path) -> dict[str, Any]:
    """What the folder says of its adapter. Raises ConfigError where there is none that can be read."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"adapter.start_from={folder}: there is no {CONFIG}; give a folder that PEFT or runner.export wrote"
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, CONFIG, error) from error
    return config


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of every tensor in the folder, by PEFT's names. Raises ConfigError where there are none that can be read."""
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(
            f"adapter.start_from={folder}: there is no {WEIGHTS}; pickled weights are not loaded, because they can run "
            "code: save the adapter with safe_serialization=True"
        )
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, WEIGHTS, error) from error


def _damaged(folder: Path, name: str, error: Exception) -> ConfigError:
    return ConfigError(f"adapter.start_from={folder}: {name} cannot be read ({first_line(error)}); it is damaged")

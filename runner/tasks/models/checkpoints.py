"""A checkpoint's files, read so that nothing in them can run code: config.json, and weights from safetensors only.

What transformers would look for beside them (pickles, adapters, Python files, kernels) it never gets to see: it is given a
configuration and tensors, no folder.
"""

import json
import re
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from runner.config import ConfigError
from runner.core.messages import first_line
from runner.tasks.models import hub, packages

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DESCRIBING = ("*.json", "*.txt", "*.model", "*.jinja")  # the files of a hub's model that are no weights
# What config.json may say and we decide: how attention is computed, in which precision, by whose code, with what returned.
OURS = {
    *("auto_map", "configuration_files", "transformers_weights", "fusion_config", "distributed_config"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    *("dtype", "torch_dtype", "return_dict", "output_attentions", "output_hidden_states"),
    *("name_or_path", "_name_or_path"),
}
NAMED = ", ".join(("llama_tiny", *packages.MODELS))  # the models that are neither folders nor on the hub
FLOATS = ("F64", "F32", "F16", "BF16")


@cache
def folder(model: str) -> Path:
    """Of a checkpoint: its own, a package's, or where the hub's files are, of which the weights may be missing yet.

    Raises ConfigError.
    """
    if packages.find("task.model", model):
        return packages.place("task.model", model)
    if Path(model).is_dir():
        return Path(model)
    if not hub.is_name(model):
        raise ConfigError(
            f"task.model={model}: there is no such folder; give {NAMED}, a checkpoint's folder or a hub id"
        )
    try:
        return hub.files(model, DESCRIBING)
    except Exception as error:  # the hub's and the network's
        raise ConfigError(
            f"task.model={model}: is neither {NAMED}, nor a checkpoint's folder, nor to be had from the hub "
            f"({first_line(error)}); on a machine without a network give the folder of a checkpoint that was saved elsewhere"
        ) from error


def description(model: str) -> dict[str, Any]:
    """What config.json says of the model, less what is OURS to decide. Raises ConfigError."""
    if (package := packages.find("task.model", model)) and package.described:
        return dict(package.described)
    path = folder(model) / CONFIG
    if not path.is_file():
        its = "an adapter: give its base, and the adapter as adapter.start_from"
        what = (
            its if (path.parent / "adapter_config.json").is_file() else "no checkpoint: save one with save_pretrained"
        )
        raise ConfigError(f"task.model={model}: there is no {CONFIG}; this is {what}")
    try:
        described = json.loads(path.read_bytes())
        if not isinstance(described, dict):
            raise ValueError("it holds no object {…}")
    except (OSError, ValueError, RecursionError) as error:
        raise unusable(model, {}, error) from error
    if described.get("quantization_config"):
        raise ConfigError(
            f"task.model={model}: {CONFIG} has quantization_config, and quantized weights cannot be used; give the checkpoint "
            "that they were made of"
        )
    return {name: value for name, value in described.items() if name not in OURS}


def unusable(model: str, described: Mapping[str, Any], error: Exception) -> ConfigError:
    """An error of transformers about config.json as one message, with the fields that it may mean if it names none."""
    text = " ".join(str(error).split())
    if isinstance(error, LookupError | TypeError | AssertionError):
        text = f"{type(error).__name__}: {text}"
    meant = ""
    if not any(re.search(rf"\b{re.escape(name)}\b", text) for name in described):
        fields = [f"{name}={value!r:.60}" for name, value in described.items() if _is_meant(name, value, text)]
        meant = f"; it has {', '.join(fields[:5])}" if fields else ""
    return ConfigError(f"task.model={model}: its {CONFIG} cannot be used ({text[:300] or type(error).__name__}){meant}")


def raised_by_the_model(error: Exception) -> bool:
    """Whether an error comes from the library's code of a model, which reads fields that nobody checked before it runs."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith("transformers.models.") for name in modules)


def _is_meant(name: str, value: Any, text: str) -> bool:
    """Whether text that does not name the field may be about its value."""
    if value is None:
        return name.endswith("_token_id") and "NoneType" in text
    if isinstance(value, str):
        return bool(value) and re.search(rf"\b{re.escape(value)}\b", text) is not None
    is_size = re.search(r"^(num|n)_|_(size|dim)$", name)
    return is_size is not None and type(value) is int and value < 1


def weights(model: str) -> dict[str, Any]:
    """Name -> tensor in the checkpoint's files, of which nothing but the headers is read.

    Raises ConfigError for what the checkpoint is, and OSError for trouble of the moment, which another try may not have.
    """
    place = folder(model)
    if not Path(model).is_dir():
        place = _downloaded(model, place)
    try:
        if (place / WEIGHTS).is_file():
            return _tensors(place / WEIGHTS)
        files = _index(model, place)
        shards = {file: _tensors(place / file) for file in sorted(set(files.values()))}
        return {name: shards[file][name] for name, file in files.items()}
    except KeyError as error:
        raise _without(model, f"{INDEX} names {error} in a file that lacks it") from error
    except (FileNotFoundError, SafetensorError) as error:
        raise _without(model, first_line(error)) from error


def _downloaded(model: str, place: Path) -> Path:
    names = set(_index(model, place).values()) if (place / INDEX).is_file() else {WEIGHTS}
    try:
        return hub.files(model, sorted(names), place.name)
    except Exception as error:  # the hub's, the network's and the disk's; what the hub does not have is none
        raise OSError(f"downloading: {first_line(error)}") from error


def _tensors(path: Path) -> dict[str, Any]:
    file = safe_open(path, "pt")  # it stays open as long as one of its tensors is referred to
    return {name: file.get_slice(name) for name in file.keys()}


def _index(model: str, place: Path) -> dict[str, str]:
    """Name of a tensor -> name of the file with it. Raises ConfigError unless these are files of safetensors in the folder."""
    if not (place / INDEX).is_file():
        raise _without(model, f"neither {WEIGHTS} nor {INDEX} is there")
    try:
        files = json.loads((place / INDEX).read_bytes())["weight_map"]
        if not isinstance(files, dict) or not files:
            raise TypeError("weight_map names nothing")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _without(model, f"{INDEX} cannot be read: {first_line(error)}") from error
    for file in files.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise _without(model, f"{INDEX} names {file!r:.80}, which is no file of safetensors in this folder")
    return files


def _without(model: str, reason: str) -> ConfigError:
    return ConfigError(
        f"task.model={model}: has no weights in safetensors that can be read ({reason}); pickled weights are not loaded, "
        "because they can run code: convert them with save_pretrained on a machine you trust"
    )


def check(model: str, network: nn.Module, labels: int | None) -> None:
    """Raise ConfigError unless the weights fill the network, which was built of the configuration on the meta device."""
    try:
        found = weights(model)
    except OSError as error:
        raise ConfigError(
            f"task.model={model}: its weights cannot be had ({first_line(error)}); the same command tries again"
        ) from error
    if odd := [name for name, t in found.items() if name.endswith("weight") and t.get_dtype() not in FLOATS]:
        raise ConfigError(
            f"task.model={model}: its {odd[0]} is of type {found[odd[0]].get_dtype()}; weights must be floating-point numbers "
            f"({', '.join(FLOATS)}), not quantized ones"
        )
    empty = {name: torch.empty(t.get_shape(), device="meta") for name, t in found.items()}
    fill(model, network, labels, empty, device_map="meta")


def load(model: str, network: nn.Module, labels: int | None, dtype: torch.dtype) -> nn.Module:
    """A network like this one with the checkpoint's weights. Raises ConfigError, and OSError as `weights` does."""
    filled = fill(model, network, labels, weights(model), dtype=dtype)
    for name, p in filled.named_parameters():
        if not p.isfinite().all():
            raise ConfigError(
                f"task.model={model}: its {name} holds numbers that are not finite; the checkpoint is damaged"
            )
    return filled


def fill(model: str, network: nn.Module, labels: int | None, tensors: Mapping[str, Any], **options: Any) -> nn.Module:
    """A network like this one, filled with the tensors. Raises ConfigError where they are not those that it needs.

    What they lack the library draws at random, another time otherwise: only a classifier's head may be so.
    """
    filled, info = type(network).from_pretrained(
        None,
        config=network.config,
        state_dict=dict(tensors),
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **options,
    )
    base = f"{network.base_model_prefix}."
    sizes = {
        name: f"{_shape(there)}, and {CONFIG} makes it {_shape(ours)}" for name, there, ours in info["mismatched_keys"]
    }
    drawn = {*info["missing_keys"], *sizes}
    if lacking := sorted(name for name in drawn if labels is None or name.startswith(base)):
        of_size = f" ({sizes[lacking[0]]})" if lacking[0] in sizes else ""
        raise ConfigError(
            f"task.model={model}: its weights lack {len(lacking)} tensors of the right size, such as {lacking[0]}{of_size}; give "
            "a checkpoint that was saved for this task"
        )
    blocks = {_without_numbers(name) for name in network.state_dict()}
    if left := sorted(name for name in info["unexpected_keys"] if _without_numbers(name) in blocks):
        raise ConfigError(
            f"task.model={model}: its weights hold {len(left)} tensors of layers that its {CONFIG} does not have, such as "
            f"{left[0]}; the two are not of one checkpoint"
        )
    return filled


def _without_numbers(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdigit())


def _shape(shape: Any) -> str:
    return "×".join(map(str, shape)) or "one number"

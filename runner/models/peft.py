"""Adapter folders as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

PEFT itself is not needed for either.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from runner.adapters import SCALES
from runner.schema import Config, ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Parameter -> what PEFT calls it.
NAMES = {
    "A": "lora_A.weight",
    "B": "lora_B.weight",
    "m": "lora_magnitude_vector",
    "d": "vera_lambda_d",
    "b": "vera_lambda_b",
}
ALTERS_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # of PEFT's, those that change the frozen weights
PROJECTIONS = {"A": "base_model.vera_A", "B": "base_model.vera_B"}
OF_HEAD = {"W": "weight", "b": "bias"}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """A new folder; the tensors by PEFT's names. Raises ConfigError where it cannot be written."""
    try:
        folder.mkdir(parents=True)
        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror or error}); name a folder that is not there yet"
        ) from error


def check(config: Config, shapes: Mapping[str, tuple[int, int]], heads: Mapping[str, tuple[int, int, bool]]) -> None:
    """Raise ConfigError, with the field that disagrees, unless a run can start from the folder that its adapter names."""
    adapter = config.adapter
    folder = Path(adapter.start_from)
    its = _config(folder)

    def wants(field: str, ours: Any, theirs: Any, name: str) -> None:
        if ours != theirs and not (isinstance(theirs, float) and math.isclose(ours, theirs)):
            raise ConfigError(
                f"{field}={ours}: {folder} has {name}={theirs}; set {field}={theirs}, or another adapter.start_from"
            )

    if its.get("peft_type") not in ("LORA", "VERA"):
        raise ConfigError(
            f"adapter.start_from={folder}: has peft_type={its.get('peft_type')}; LORA and VERA can be read"
        )
    if its.get("use_dora") and its.get("use_rslora"):
        raise ConfigError(
            f"adapter.start_from={folder}: has use_dora and use_rslora, which adapter=dora does not combine"
        )
    kinds = {
        "vera": its["peft_type"] == "VERA",
        "dora": its.get("use_dora"),
        "rslora": its.get("use_rslora"),
        "lora": True,
    }
    kind = next(kind for kind, is_so in kinds.items() if is_so)
    wants("adapter.name", adapter.name, kind, "the adapter")
    wants("adapter.rank", adapter.rank, its.get("r"), "r")
    if kind == "vera":
        key = config.seed if adapter.projection_key is None else adapter.projection_key
        wants("adapter.projection_key", key, its.get("projection_prng_key", 0), "projection_prng_key")
    else:
        wants("adapter.alpha", adapter.alpha, its.get("lora_alpha"), "lora_alpha")
    for field, plain in (("bias", "none"), ("lora_bias", False)):
        if its.get(field, plain) not in (plain, None):
            raise ConfigError(
                f"adapter.start_from={folder}: has {field}={its[field]}, which is not supported; it must be {plain}"
            )
    drawn = str(its.get("init_lora_weights", "")).partition("_niter")[0]
    if drawn in ALTERS_BASE:
        raise ConfigError(
            f"adapter.start_from={folder}: has init_lora_weights={drawn}, and so belongs to another base than the model's; "
            "convert it in PEFT, by save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    found = _shapes(folder)
    parts = {"vera": "db", "dora": "ABm"}.get(kind, "AB")
    for layer, (n_out, n_in) in shapes.items():
        rank = _of_layer(its.get("rank_pattern"), layer, adapter.rank)
        if kind != "vera":
            alpha_there = _of_layer(its.get("alpha_pattern"), layer, its["lora_alpha"])
            if not math.isclose(SCALES[kind](alpha_there, rank), SCALES[kind](adapter.alpha, adapter.rank)):
                raise ConfigError(
                    f"adapter.start_from={folder}: has alpha_pattern={alpha_there} at layer {layer}, a scale of its own, "
                    "which is not supported; all layers must have one"
                )
        sizes = {"A": (rank, n_in), "B": (n_out, rank), "m": (n_out,), "d": (rank,), "b": (n_out,)}
        for part in parts:
            name = f"{PREFIX}{layer}.{NAMES[part]}"
            if name not in found:
                raise ConfigError(
                    f"task.targets: layer {layer} has no {NAMES[part]} in {folder}; name those that are there"
                )
            if found[name] != sizes[part]:
                raise ConfigError(
                    f"adapter.start_from={folder}: {name} is {'×'.join(map(str, found[name]))}, and layer {layer} needs "
                    f"{'×'.join(map(str, sizes[part]))}; it was made for another model"
                )
    for head, (n_out, n_in, _) in heads.items():
        for part, size in (("W", (n_out, n_in)), ("b", (n_out,))):
            name = f"{PREFIX}{head}.{OF_HEAD[part]}"
            if found.get(name, size) != size:
                raise ConfigError(f"task.labels: {name} in {folder} is {found[name]}, and the task's head needs {size}")
    names = {f"{PREFIX}{layer}.{NAMES[part]}" for layer in shapes for part in parts} | set(PROJECTIONS.values())
    names |= {f"{PREFIX}{head}.{name}" for head in heads for name in OF_HEAD.values()}
    if unknown := sorted(found.keys() - names):
        raise ConfigError(
            f"task.targets: {folder} holds {unknown[0].removeprefix(PREFIX)}, which is no part of an adapted layer; name its "
            "layer, if it is a linear one"
        )


def ranks(folder: Path) -> dict[str, int]:
    """Layer -> rank of its factors in the folder; none of VeRA's."""
    end = f".{NAMES['A']}"
    return {
        name.removeprefix(PREFIX).removesuffix(end): shape[0]
        for name, shape in _shapes(folder).items()
        if name.endswith(end)
    }


def _of_layer(pattern: Mapping[str, Any] | None, layer: str, otherwise: Any) -> Any:
    """What a pattern of PEFT's says of a layer, by its name or the last parts of it."""
    found = (value for key, value in (pattern or {}).items() if layer == key or layer.endswith(f".{key}"))
    return next(found, otherwise)


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by PEFT's names. Raises ConfigError."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, WEIGHTS, error) from error


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"adapter.start_from={folder}: there is no {CONFIG}; give a folder that PEFT or runner.export wrote"
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise _damaged(folder, CONFIG, error) from error
    return config


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
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
    return ConfigError(
        f"adapter.start_from={folder}: {name} cannot be read ({str(error).splitlines()[0]}); it is damaged"
    )


def alpha(kind: str, scale: float, rank: int) -> float:
    """`lora_alpha` that gives this scale at this rank."""
    return scale * (math.sqrt(rank) if kind == "rslora" else rank)

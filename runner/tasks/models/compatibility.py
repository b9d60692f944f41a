"""Whether a run can start from an adapter folder: every field that disagrees is refused by its name."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runner.adapters import Full
from runner.config import Config, ConfigError
from runner.config.registry import ADAPTERS, INITS
from runner.core.messages import say
from runner.tasks.models import bases, peft
from runner.tasks.models.spec import LLAMA_TINY

ALTERS_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # of PEFT's inits, those that change the frozen weights
# What must be as it is where a folder does not say, because it changes what the adapter computes.
PLAIN = {"bias": "none", "lora_bias": False, "layer_replication": None, "alora_invocation_tokens": None}


def check(config: Config, layers: Mapping[str, tuple[int, int]], heads: Mapping[str, tuple[int, int, bool]]) -> None:
    """Raise ConfigError, with the field that disagrees, unless a run can start from the folder that its adapter names.

    `layers`: (n_out, n_in) of those that the task adapts; `heads`: (n_out, n_in, has a bias) of those that it trains.
    """
    folder = Path(config.adapter.start_from)
    described = peft.description(folder)
    kind = _kind(folder, described)
    adapter = ADAPTERS[kind]
    _check_fields(config, folder, described, kind)
    _check_base(config, folder, described)
    found = peft.shapes(folder)
    pair = getattr(adapter, "peft_pair", ())
    names = {f"{peft.PREFIX}{layer}.{part}" for layer in layers for part in adapter.peft_names.values()}
    of_heads = {f"{peft.PREFIX}{head}.{part}" for head in heads for part in Full.peft_names.values()}
    _check_targets(config, folder, found, names, of_heads, pair)
    for layer, (n_out, n_in) in layers.items():
        rank = _of_layer(folder, described, "rank_pattern", layer, config.adapter.rank)
        if hasattr(config.adapter, "alpha"):
            alpha = _of_layer(folder, described, "alpha_pattern", layer, described["lora_alpha"])
            if not math.isclose(adapter.scale_at(alpha, rank), adapter.scale_of(config.adapter)):
                raise _incompatible(folder, f"alpha_pattern={alpha} at layer {layer}", "all layers must have one scale")
        sizes = {"A": (rank, n_in), "B": (n_out, rank), "m": (n_out,), "d": (rank,), "b": (n_out,)}
        for part, name in adapter.peft_names.items():
            _check_size(folder, found, f"{peft.PREFIX}{layer}.{name}", sizes[part])
    if pair and pair[0] in found:
        n_out, n_in = (max(shape[side] for shape in layers.values()) for side in (0, 1))
        for name, size in zip(pair, ((config.adapter.rank, n_in), (n_out, config.adapter.rank)), strict=True):
            _check_size(folder, found, name, size)
    _check_frozen(config, folder)
    for head, (n_out, n_in, _) in heads.items():
        for part, size in (("W", (n_out, n_in)), ("b", (n_out,))):
            name = f"{peft.PREFIX}{head}.{Full.peft_names[part]}"
            if found.get(name, size) != size:
                raise ConfigError(
                    f"task.labels={config.task.labels}: {name} in {folder} is {_shape(found[name])}, and the task's head needs "
                    f"{_shape(size)}; set the task and its labels as they were there, or another adapter.start_from"
                )


def _check_frozen(config: Config, folder: Path) -> None:
    """That a factor which is not to train is not zero in the folder, where it would stay."""
    adapter, side = ADAPTERS[config.adapter.name], config.adapter.freeze
    for name in (part for part in INITS[config.init.name].parameters if adapter.sides[part] == side):
        tensors = [t for key, t in peft.read(folder).items() if key.endswith(adapter.peft_names[name])]
        if not any(t.any() for t in tensors):
            raise ConfigError(
                f"adapter.freeze={side}: {name} is zero in {folder}, where it would stay, and then the other factor has no "
                "gradient; freeze that one, or leave it at null"
            )


def _kind(folder: Path, described: Mapping[str, Any]) -> str:
    """Our name of the adapter, of fields that are of the types that they should be."""
    if described.get("peft_type") not in ("LORA", "VERA"):
        raise _incompatible(folder, f"peft_type={described.get('peft_type')}", "LORA and VERA can be read")
    numbers = ("r",) if described["peft_type"] == "VERA" else ("r", "lora_alpha")
    for name in numbers:
        if not isinstance(described.get(name), int | float) or not described[name] > 0:
            raise _incompatible(
                folder, f"{name}={described.get(name)!r}", "it must be a number above 0; the file is damaged"
            )
    for name in ("rank_pattern", "alpha_pattern"):
        values = described.get(name) or {}
        if not isinstance(values, dict) or not all(isinstance(v, int | float) and v > 0 for v in values.values()):
            raise _incompatible(
                folder,
                f"{name}={described[name]!r}",
                "it must name a number above 0 for each pattern; the file is damaged",
            )
    kinds = [
        kind
        for kind, adapter in ADAPTERS.items()
        if adapter.peft and all((described.get(name) or False) == value for name, value in adapter.peft.items())
    ]
    if not kinds:
        raise _incompatible(folder, "use_dora and use_rslora", "adapter=dora does not combine them")
    return kinds[0]


def _check_fields(config: Config, folder: Path, described: Mapping[str, Any], kind: str) -> None:
    def check_equal(field: str, value: Any, found: Any, name: str) -> None:
        if value != found and not (isinstance(found, float) and math.isclose(value, found)):
            raise ConfigError(
                f"{field}={value}: {folder} has {name}={found}; set {field}={found}, or another adapter.start_from"
            )

    check_equal("adapter", config.adapter.name, kind, "the adapter")
    check_equal("adapter.rank", config.adapter.rank, described["r"], "r")
    if kind == "vera":
        key = config.seed if config.adapter.projection_key is None else config.adapter.projection_key
        check_equal("adapter.projection_key", key, described.get("projection_prng_key", 0), "projection_prng_key")
    else:
        check_equal("adapter.alpha", config.adapter.alpha, described["lora_alpha"], "lora_alpha")
    for name, plain in PLAIN.items():
        if described.get(name, plain) not in (plain, None):
            raise _incompatible(folder, f"{name}={described[name]}", f"it must be {plain}")
    drawn = str(described.get("init_lora_weights", "")).partition("_niter")[0]
    if drawn in ALTERS_BASE:
        raise _incompatible(
            folder,
            f"init_lora_weights={drawn}",
            "it belongs to another base than the model's; convert it in PEFT, by "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )


def _check_base(config: Config, folder: Path, described: Mapping[str, Any]) -> None:
    """That the folder's base is the task's, as far as its name tells."""
    task, beside = config.task, folder / "base"
    if (beside / "config.json").is_file():
        if task.model == LLAMA_TINY or Path(task.model).resolve() != beside.resolve():
            raise ConfigError(f"task.model={task.model}: {folder} adapts the base beside it; set task.model={beside}")
        return
    base = described.get("base_model_name_or_path")
    expected = bases.name(task)
    if not isinstance(base, str) or Path(base).name == Path(expected).name:
        return
    if task.model == LLAMA_TINY:
        raise ConfigError(
            f"task.model={task.model}: {folder} adapts {base}, and the task's fields make {expected}; set width, layers, seed "
            "and pretraining as they were there, or another adapter.start_from"
        )
    _warn(f"{folder} adapts {base}; task.model={task.model} must be the same model, which its name does not tell")


@cache
def _warn(sentence: str) -> None:
    say(f"warning: {sentence}")


def _check_targets(
    config: Config, folder: Path, found: Mapping[str, Any], names: set[str], of_heads: set[str], pair: Iterable[str]
) -> None:
    """That the folder and the task adapt the same layers, and that there is nothing else in the folder."""
    others = found.keys() - names - of_heads - set(pair)
    adapted, expected = _adapted(found), _adapted(names)
    if adapted != expected:
        there = ", ".join(sorted({layer.rpartition(".")[2] for layer in adapted})) or "none"
        more = f"not {min(expected - adapted)}" if expected - adapted else f"{min(adapted - expected)} among them"
        raise ConfigError(
            f"task.targets={config.task.targets}: {folder} adapts {len(adapted)} layers (by their last names {there}), {more}; "
            "name those that it adapts, or another adapter.start_from"
        )
    if missing := names - found.keys():
        raise _incompatible(folder, f"no {min(missing).removeprefix(peft.PREFIX)}", "the folder is damaged")
    if others:
        raise _incompatible(
            folder,
            min(others).removeprefix(peft.PREFIX),
            f"it is no part of adapter={config.adapter.name}, and beside adapters only heads of task=classification can be read",
        )


def _adapted(names: Iterable[str]) -> set[str]:
    """The layers of which tensors of these names are adapters."""
    known = sorted({name for adapter in ADAPTERS.values() if adapter.peft for name in adapter.peft_names.values()})
    parts = re.compile(rf"{re.escape(peft.PREFIX)}(.+)\.(?:{'|'.join(map(re.escape, known))})")
    return {match[1] for match in map(parts.fullmatch, names) if match}


def _check_size(folder: Path, found: Mapping[str, tuple[int, ...]], name: str, size: tuple[int, ...]) -> None:
    if found.get(name) != size:
        there = f"{name} ({_shape(found[name])})" if name in found else f"no {name}"
        raise _incompatible(
            folder, there, f"it must be {_shape(size)}; the folder was made for another model, or is damaged"
        )


def _of_layer(folder: Path, described: Mapping[str, Any], pattern: str, layer: str, otherwise: Any) -> Any:
    """What a pattern of PEFT's says of a layer: its keys are regular expressions for the end of a name."""
    try:
        found = (value for key, value in (described.get(pattern) or {}).items() if re.match(rf"(.*\.)?({key})$", layer))
        return next(found, otherwise)
    except re.error as error:
        raise _incompatible(
            folder, f"{pattern}={described[pattern]}", f"its keys must be regular expressions ({error})"
        ) from error


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _incompatible(folder: Path, what: str, why: str) -> ConfigError:
    return ConfigError(f"adapter.start_from={folder}: has {what}, with which no run can start; {why}")

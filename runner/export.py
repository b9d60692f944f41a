"""`python -m runner.export RUN_DIR OUT`: write a run's adapter as a folder that PEFT loads.

    model = PeftModel.from_pretrained(base, OUT)

on the base that the run was trained on gives the run's logits. A run whose frozen weight is W0 - s·B0·A0 becomes LoRA of twice
its rank on W0: [B, -B0]·[A; A0]. A base that was rounded (init=loftq) is of full rank away from W0: it is written beside the
adapter, to OUT/base.
"""

import argparse
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from runner.adapters import Full
from runner.config import ConfigError
from runner.config.registry import ADAPTERS, GROUPS, INITS, TASKS
from runner.core import streams
from runner.core.messages import first_line
from runner.inits import Layer
from runner.store import packs
from runner.store.files import read_fields
from runner.store.outcome import CONFIG, META, WEIGHTS, DamagedRun, read_verified
from runner.tasks.models import bases, library, peft, spec
from runner.tasks.models.options import ModelOptions
from runner.tasks.models.text import Source


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 where the run cannot be exported."""
    parser = argparse.ArgumentParser(prog="python -m runner.export", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "run", type=Path, metavar="RUN_DIR", help="a run's folder, such as outputs/runs/scratch/0123456789abcdef"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; it must not be there yet")
    options = parser.parse_args(arguments)
    try:
        print(export(options.run, options.out))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def export(run: Path, out: Path) -> str:
    """Write the adapter of a run; returns a sentence about it. Raises ConfigError."""
    if out.exists():
        raise ConfigError(f"{out}: is there already; name a folder that is not")
    config, weights = _read(run)
    for group in ("adapter", "init"):
        if config[group]["name"] not in list(GROUPS[group]):
            raise ConfigError(
                f"{run}: {group}={config[group]['name']} is unknown; export it with the version that made it"
            )
    try:
        task = TASKS.options[config["task"]["name"]](**config["task"])
    except TypeError as error:
        raise ConfigError(
            f"{run}: another version of this project made it ({error}); export it with that one"
        ) from error
    new = out.with_name(f".{out.name}-new")
    try:
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        new.mkdir(parents=True)
        sentence = _write(new, out, config, task, weights)
        new.rename(out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        place = getattr(error, "filename", None) or out
        raise ConfigError(f"{out}: cannot be made ({place}: {reason}); mend that, or name another folder") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return sentence


def _write(new: Path, out: Path, config: dict[str, Any], task: ModelOptions, weights: dict[str, Tensor]) -> str:
    """Fill the folder `new`, which is to become `out`."""
    labels = getattr(task, "labels", None)
    own = config["adapter"]
    kind = ADAPTERS[own["name"]]
    layers = sorted({name.rpartition(".")[0] for name in weights} - {"projection"})
    heads = {layer for layer in layers if f"{layer}.W" in weights}
    adapted = [layer for layer in layers if layer not in heads]
    model = spec.skeleton(task.model, task.width, task.layers, labels)
    transposed = isinstance(spec.linear_layers(model)[adapted[0]], _conv1d())
    replaces = INITS[config["init"]["name"]].replaces
    base = Path(bases.place(task, config["bases"]))
    base = str(out.resolve() / "base" if replaces else base.resolve() if base.is_dir() else base)
    tensors, ranks = {}, {}
    for layer in adapted:
        of_layer = {part: weights[f"{layer}.{part}"] for part in kind.peft_names}
        if f"{layer}.A0" in weights:
            of_layer["A"] = torch.cat([of_layer["A"], weights[f"{layer}.A0"]], 0)
            of_layer["B"] = torch.cat([of_layer["B"], -weights[f"{layer}.B0"]], 1)
        if "A" in of_layer:
            ranks[layer] = len(of_layer["A"])
        tensors |= {f"{peft.PREFIX}{layer}.{kind.peft_names[part]}": t for part, t in of_layer.items()}
    for head in heads:
        tensors |= {
            f"{peft.PREFIX}{head}.{name}": weights[f"{head}.{part}"]
            for part, name in Full.peft_names.items()
            if f"{head}.{part}" in weights
        }
    description = {
        "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM" if labels is None else "SEQ_CLS",
        "target_modules": adapted,
        "modules_to_save": sorted({head.partition(".")[0] for head in heads}) or None,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "inference_mode": True,
    }
    if "projection_key" in own:
        key = config["seed"] if own["projection_key"] is None else own["projection_key"]
        tensors |= {name: weights[f"projection.{side}"] for side, name in zip("AB", kind.peft_pair, strict=True)}
        description |= {**kind.peft, "r": own["rank"], "projection_prng_key": key, "save_projection": True}
        description["vera_dropout"] = own["dropout"]
    else:
        description |= _of_lora(own, ranks, 1 + any(name.endswith(".A0") for name in weights))
    peft.write(new, description, tensors)
    if replaces:
        _write_base(new / "base", config, task, labels, adapted)
    more = ", and the base that it adapts beside it" if replaces else ""
    return f"wrote {out}: {own['name']} on {len(adapted)} layers of {base}{more}"


def _of_lora(own: dict[str, Any], ranks: dict[str, int], pairs: int) -> dict[str, Any]:
    """PEFT's description of LoRA, rsLoRA or DoRA with these ranks and one scale; `pairs` of factors a layer."""
    kind = ADAPTERS[own["name"]]
    scale = kind.scale_at(own["alpha"], own["rank"])
    usual = own["rank"] * pairs
    others = {layer: rank for layer, rank in ranks.items() if rank != usual}
    return {
        **kind.peft,
        "r": usual,
        "lora_alpha": own["alpha"] if pairs == 1 else kind.alpha_at(scale, usual),
        "lora_dropout": own["dropout"],
        "rank_pattern": others,
        "alpha_pattern": {layer: kind.alpha_at(scale, rank) for layer, rank in others.items()},
    }


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A finished run's configuration, and what it trained; both as the run's checksums say."""
    try:
        files = packs.files(run)
        meta = json.loads(files.read(META))
        versions, status = dict(meta["versions"]), meta["status"]
        contents = read_verified(files, meta, [name for name in (CONFIG, WEIGHTS) if name in meta["sha256"]])
        config = read_fields(contents[CONFIG])
        task, *_ = (config[group]["name"] for group in ("task", "adapter", "init"))
        weights = safetensors.torch.load(contents[WEIGHTS]) if WEIGHTS in contents else None
    except DamagedRun as error:
        raise ConfigError(
            f"{error}, so it is damaged or was edited; delete the folder and train the run again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError, SafetensorError) as error:
        raise ConfigError(f"{run}: is not the folder of a run, or is damaged ({first_line(error)})") from error
    own = config["adapter"]["name"]
    if own in list(ADAPTERS) and not ADAPTERS[own].peft:
        raise ConfigError(
            f"{run}: adapter={own} has no counterpart in PEFT; with log.weights=true its weights are in {WEIGHTS} there, by layer"
        )
    if status != "finished":
        raise ConfigError(f"{run}: its run is {status}; only finished ones have an adapter to export")
    if task not in list(TASKS) or not TASKS[task].exports:
        raise ConfigError(f"{run}: task={task} has no transformers model on which PEFT could load an adapter")
    if config["task"]["model"] == spec.LLAMA_TINY:
        for name in ("torch", "transformers"):
            if versions.get(name) != version(name):
                raise ConfigError(
                    f"{run}: its base was pretrained with {name} {versions.get(name)}, and another makes another one; "
                    "export it with that version installed"
                )
    if weights is None:
        raise ConfigError(f"{run}: kept no weights; train it again with log.weights=true")
    return config, weights


def _write_base(
    folder: Path, config: dict[str, Any], task: ModelOptions, labels: int | None, layers: list[str]
) -> None:
    """The run's base with the weights that its init put in the place of those of the checkpoint."""
    dtype = getattr(torch, task.base_dtype or config["dtype"])
    model = bases.load(task, config["bases"], labels, dtype)
    modules = spec.linear_layers(model)
    options = INITS.options[config["init"]["name"]](**config["init"]).options()
    for layer in layers:
        W0 = spec.weight(modules[layer]).detach()
        target = Layer(
            W0 if W0.dtype == torch.float64 else W0.float(), config["adapter"]["rank"], 1.0, torch.Generator()
        )
        W0.copy_(INITS[config["init"]["name"]].draw(target, **options).base)
    tokenizer = Source.of(task, config["bases"]).tokenizer()
    if tokenizer is None:
        model.config.tokens = spec.BYTES
    else:
        tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _conv1d() -> type:
    library()
    from transformers.pytorch_utils import Conv1D

    return Conv1D


if __name__ == "__main__":
    streams.prepare()
    sys.exit(main())

"""What can be known of a model before it is built or downloaded whole: layers, shapes, sizes."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from runner.config import ConfigError
from runner.tasks.models import checkpoints, library
from runner.tasks.models.options import ModelOptions

LLAMA_TINY = "llama_tiny"
BYTES = "bytes"  # what a checkpoint without a tokenizer says of its `tokens`
HEAD_DIM = 32  # of llama_tiny
WIDEST = 4096  # llama_tiny
DEFAULTS = {"width": 64, "layers": 2}  # of llama_tiny, where the task does not say
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
KINDS = ("attention", "mlp", "all-linear")  # of `task.targets`, besides names


@dataclass(frozen=True)
class ModelSpec:
    """`layers`: (n_out, n_in) of the base model's linear layers; `heads`: (n_out, n_in, has a bias) of those outside it.

    `limit`: the longest sequence, None if there is none. `saved_per_token`: numbers that a token takes while it trains.
    """

    vocabulary: int
    limit: int | None
    parameters: int
    layers: dict[str, tuple[int, int]]
    heads: dict[str, tuple[int, int, bool]]
    saved_per_token: float


def of(task: ModelOptions, labels: int | None) -> ModelSpec:
    """The specification of a task's model, as a classifier with `labels` labels or as a causal language model (None)."""
    return _inspect(task.model, task.width, task.layers, labels, task.sequence_length)


@cache
def configuration(model: str, width: int | None = None, depth: int | None = None) -> Any:
    """The transformers configuration of llama_tiny, of a checkpoint's folder or of a hub id. Raises ConfigError."""
    transformers = library()
    if model == LLAMA_TINY:
        if width % HEAD_DIM or width > WIDEST:
            raise ConfigError(
                f"task.width={width}: {model} takes multiples of {HEAD_DIM}, its heads' size, up to {WIDEST}"
            )
        return transformers.LlamaConfig(
            vocab_size=256,  # bytes
            hidden_size=width,
            intermediate_size=-(-8 * width // 48) * 16,  # 8/3 of the width, as Llama's, up to a multiple of 16
            num_hidden_layers=depth,
            num_attention_heads=width // HEAD_DIM,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    described = checkpoints.description(model)
    if (kind := described.get("model_type")) not in list(transformers.CONFIG_MAPPING):
        raise ConfigError(
            f"task.model={model}: its {checkpoints.CONFIG} has model_type={kind!r:.60}, which transformers "
            f"{transformers.__version__} does not know; code that comes with a checkpoint is not run"
        )
    try:
        with TemporaryDirectory() as folder:  # with nothing in it but what the library is to see
            (Path(folder) / checkpoints.CONFIG).write_text(json.dumps(described))
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        other = (
            config.is_encoder_decoder or config.get_text_config() is not config or not hasattr(config, "hidden_size")
        )
    except Exception as error:  # the library's, of a file that is not what it seems
        raise checkpoints.unusable(model, described, error) from error
    if other:
        raise ConfigError(
            f"task.model={model}: is a model of type {config.model_type}; only models of text alone are supported, and of an "
            "encoder or a decoder alone"
        )
    for name in SIZES:
        value = getattr(config, name, None)
        if type(value) is not int or value < 1:
            raise ConfigError(
                f"task.model={model}: its {checkpoints.CONFIG} has {config.attribute_map.get(name, name)}={value!r:.60}; it must "
                "be an integer of at least 1"
            )
    config.name_or_path = model
    return config


@cache
def _inspect(model: str, width: int | None, depth: int | None, labels: int | None, length: int) -> ModelSpec:
    network = skeleton(model, width, depth, labels)
    if Path(model).is_dir():  # a hub's weights are not there yet
        checkpoints.check(model, network, labels)
    config = network.config
    layers, heads = {}, {}
    for name, module in linear_layers(network).items():
        shape = tuple(weight(module).shape)
        if name.startswith(f"{network.base_model_prefix}."):
            layers[name] = shape
        else:
            heads[name] = (*shape, module.bias is not None)
    limit = getattr(config, "max_position_embeddings", None)
    limit = limit if limit and limit > 0 else None  # XLNet says -1
    padding = getattr(getattr(network.base_model, "embeddings", None), "padding_idx", None)
    if limit and padding is not None:
        limit -= padding + 1  # RoBERTa counts positions from there
    size = sum(p.numel() for p in network.parameters())
    saved = _saved(network, min(length, limit or length))
    saved += 2 * (
        config.vocab_size if labels is None else 0
    )  # logits and their logarithms, in whose place gradients come
    return ModelSpec(config.vocab_size, limit, size, layers, heads, saved)


def skeleton(model: str, width: int | None, depth: int | None, labels: int | None) -> nn.Module:
    """The model without weights, as a classifier or a causal language model (labels None). Raises ConfigError."""
    transformers = library()
    kind = transformers.AutoModelForCausalLM if labels is None else transformers.AutoModelForSequenceClassification
    config = copy.deepcopy(configuration(model, width, depth))
    if labels is not None:
        config.num_labels = labels
    if type(config) not in kind._model_mapping:
        task = "language_model" if labels is None else "classification"
        raise ConfigError(f"task={task}: {config.model_type} models, such as task.model={model}, have no such form")
    try:
        with torch.device("meta"):
            return kind.from_config(config, trust_remote_code=False).eval()
    except Exception as error:  # the library's, of values that do not go together
        raise checkpoints.unusable(model, config.to_dict(), error) from error


def linear_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Every nn.Linear and Conv1D by name."""
    from transformers.pytorch_utils import Conv1D

    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def weight(module: nn.Module) -> Tensor:
    """W0 (n_out, n_in) of an nn.Linear, or of a Conv1D, which keeps its transpose."""
    return module.weight if isinstance(module, nn.Linear) else module.weight.T


def select(layers: Sequence[str], targets: str | Sequence[str]) -> list[str]:
    """The layers that targets name: `attention`, `mlp`, `all-linear`, or the last parts of names, as in PEFT."""
    wanted = [targets] if isinstance(targets, str) else targets
    return [name for name in layers if any(_is_meant(name, target) for target in wanted)]


def _is_meant(name: str, target: str) -> bool:
    parts = name.split(".")
    attends = any("attn" in part or "attention" in part for part in name.lower().split("."))
    kinds = {"all-linear": True, "attention": attends, "mlp": not attends and any(part.isdigit() for part in parts)}
    return kinds[target] if target in kinds else name == target or name.endswith(f".{target}")


def _saved(network: nn.Module, length: int) -> float:
    """Numbers that a token's forward and backward pass hold at the peak, beside the weights; an estimate where forward cannot
    be traced."""
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    saved: dict[int, Any] = {}

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # alive, so that its address stays its own
        return tensor

    for module in linear_layers(network).values():  # adapters keep what they read; frozen weights would not
        module.register_forward_pre_hook(lambda module, inputs: (save(inputs[0]), None)[1])
    for p in network.parameters():
        p.requires_grad_(False)
    network.get_input_embeddings().weight.requires_grad_()
    try:
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            network(input_ids=torch.zeros(1, length, dtype=torch.long, device="meta"))
    except Exception:  # some models look at their data, and here are none
        return 40.0 * network.config.hidden_size * network.config.num_hidden_layers
    # On its way back, backward holds about half as much again: gradients of what is saved.
    sizes = [
        1.5 * t.untyped_storage().nbytes() / t.element_size() for address, t in saved.items() if address not in weights
    ]
    return sum(sizes) / length

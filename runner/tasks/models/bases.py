"""Loading frozen bases. Some are made here, once, and then are checkpoints like any.

What a package has in GGUF is converted. `llama_tiny` is pretrained, once per everything that shapes it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import log_softmax, pad

from runner.core.messages import announce, say
from runner.tasks.models import checkpoints, kept, library, packages, spec
from runner.tasks.models.conversion import converted
from runner.tasks.models.options import ModelOptions
from runner.tasks.models.pretraining import RECIPES, english, pretrain


def load(task: ModelOptions, bases: str, labels: int | None, dtype: torch.dtype) -> nn.Module:
    """The frozen model, in evaluation mode, as classifier or causal language model (labels None). Raises ConfigError."""
    network = spec.skeleton(task.model, task.width, task.layers, labels)
    source = place(task, bases)
    announce(f"loading {task.model}")
    return checkpoints.load(source, network, labels, dtype).eval().requires_grad_(False)


def prepare(task: ModelOptions, bases: str, labels: int | None) -> None:
    """Pretrain, convert or download what is not there yet. Raises ConfigError."""
    checkpoints.check(place(task, bases), spec.skeleton(task.model, task.width, task.layers, labels), labels)


def place(task: ModelOptions, bases: str) -> str:
    """The checkpoint's folder, made if it is made here and is not there yet; of a model on the hub its id. Raises ConfigError."""
    if task.model == spec.LLAMA_TINY:
        return str(pretrained(task, bases))
    if (package := packages.find("task.model", task.model)) is None:
        return task.model
    return str(converted(task.model, bases) if package.described else packages.place("task.model", task.model))


def pretrained(task: ModelOptions, bases: str) -> Path:
    """The folder of llama_tiny as the task wants it, pretrained if it is not there yet; one process does, others wait."""
    folder = Path(bases) / name(task)

    def make(new: Path) -> dict[str, Any]:
        say(
            f"pretraining {task.model}, width {task.width}, {task.layers} layers, {task.pretrain_steps} steps: once, for {folder}"
        )
        model, loss = pretrain(task)
        model.save_pretrained(new)
        if loss is not None:
            say(f"pretrained to {loss:.2f} nats per byte")
        return {**_shaped_by(task), "loss": loss}

    return kept.once(folder, make)


def name(task: ModelOptions) -> str:
    """By which the base is known where its folder is named: the same for what is the same base."""
    if task.model != spec.LLAMA_TINY:
        package = packages.find("task.model", task.model)
        own = package and not package.described  # a folder of the package, and not one that is made here
        return str(packages.place("task.model", task.model)) if own else task.model
    key = hashlib.sha256(json.dumps(_shaped_by(task), sort_keys=True).encode()).hexdigest()[:12]
    return f"{task.model}-n{task.width}-l{task.layers}-{key}"


def _shaped_by(task: ModelOptions) -> dict[str, Any]:
    return {
        "model": task.model,
        "width": task.width,
        "layers": task.layers,
        "seed": task.base_seed,
        "steps": task.pretrain_steps,
        "recipe": RECIPES[task.parametrization],
        "corpus": hashlib.sha256(english()).hexdigest(),
        "torch": torch.__version__,
        "transformers": library().__version__,
    }


class TokenLosses(torch.autograd.Function):
    """`token_losses`, whose gradient takes the memory of what it kept: plain operations would make, and fill with zeros, several
    tensors of the size of the logits, which are the largest there are where the vocabulary is large."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        logs = log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
        said = tokens[:, 1:, None]
        ctx.save_for_backward(logs, said)
        ctx.dtype = logits.dtype
        return -logs[:, :-1].gather(2, said)[:, :, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logs, said = ctx.saved_tensors
        grad = pad(grad, (0, 1))[:, :, None]  # the last logits are of a token that is not there
        chances = logs.exp_().mul_(grad)
        chances[:, :-1].scatter_add_(2, said, -grad[:, :-1])
        return chances.to(ctx.dtype), None


def token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """(N, T, V), (N, T) -> (N, T-1): nats of each token given those before it, in float32 at least."""
    return TokenLosses.apply(logits, tokens)

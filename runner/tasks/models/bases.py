"""Loading frozen bases. `llama_tiny` is pretrained here, once per everything that shapes it, and then is a checkpoint like any.

It learns English, from the text that CPython carries in `pydoc_data.topics`, with bytes as tokens.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from runner.config import ConfigError
from runner.core.messages import announce, say
from runner.core.rng import generator
from runner.tasks.models import checkpoints, library, spec
from runner.tasks.models.options import ModelOptions

# How llama_tiny is pretrained, besides the task's fields: part of its name, so that a change makes another base.
RECIPE = {"version": 1, "batch": 16, "length": 128, "lr": 3e-3, "warmup": 50, "clip": 1.0}
THREADS = 2  # whatever the machine has: a product divided otherwise rounds otherwise
BASE = "base.json"  # what shaped the base, and SHA-256 of its files


def load(task: ModelOptions, bases: str, labels: int | None, dtype: torch.dtype) -> nn.Module:
    """The frozen model, in evaluation mode, as classifier or causal language model (labels None). Raises ConfigError."""
    network = spec.skeleton(task.model, task.width, task.layers, labels)
    source = str(pretrained(task, bases)) if task.model == spec.LLAMA_TINY else task.model
    announce(f"loading {task.model}")
    return checkpoints.load(source, network, labels, dtype).eval().requires_grad_(False)


def prepare(task: ModelOptions, bases: str, labels: int | None) -> None:
    """Pretrain llama_tiny or download a checkpoint's weights, where they are not there yet. Raises ConfigError."""
    if task.model == spec.LLAMA_TINY:
        pretrained(task, bases)
    else:
        checkpoints.check(task.model, spec.skeleton(task.model, task.width, task.layers, labels), labels)


def pretrained(task: ModelOptions, bases: str) -> Path:
    """The folder of llama_tiny as the task wants it, pretrained if it is not there yet; one process does, others wait."""
    folder = Path(bases) / name(task)
    if _is_intact(folder):
        return folder
    try:
        with _only_one(folder):
            if not _is_intact(folder):
                _make(folder, task)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"bases={bases}: cannot write {folder} ({reason}); choose a folder you can write to"
        ) from error
    return folder


def name(task: ModelOptions) -> str:
    """Of llama_tiny's folder: the same for what is the same base."""
    key = hashlib.sha256(json.dumps(_shaped_by(task), sort_keys=True).encode()).hexdigest()[:12]
    return f"{task.model}-n{task.width}-l{task.layers}-{key}"


def _shaped_by(task: ModelOptions) -> dict[str, Any]:
    return {
        "model": task.model,
        "width": task.width,
        "layers": task.layers,
        "seed": task.base_seed,
        "steps": task.pretrain_steps,
        "recipe": RECIPE,
        "corpus": hashlib.sha256(english()).hexdigest(),
        "torch": torch.__version__,
        "transformers": library().__version__,
    }


def _make(folder: Path, task: ModelOptions) -> None:
    """Pretrain into a hidden folder, and rename it when it is whole."""
    if folder.exists():
        say(f"damaged base, pretraining it again: {folder}")
    say(
        f"pretraining {task.model}, width {task.width}, {task.layers} layers, {task.pretrain_steps} steps: once, for {folder}"
    )
    new = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    try:
        model, loss = pretrain(task)
        model.save_pretrained(new)
        checksums = {path.name: _sha256(path) for path in sorted(new.iterdir())}
        (new / BASE).write_text(json.dumps({**_shaped_by(task), "loss": loss, "sha256": checksums}, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    if loss is not None:
        say(f"pretrained to {loss:.2f} nats per byte")


def pretrain(task: ModelOptions) -> tuple[nn.Module, float | None]:
    """(model, mean loss of its last tenth of steps in nats per byte): AdamW with warm-up and a cosine to zero."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(task.base_seed, "base").initial_seed())
            config = spec.configuration(task.model, task.width, task.layers)
            model = library().AutoModelForCausalLM.from_config(config).train()
        return model, _pretrain(model, task)
    finally:
        torch.set_num_threads(threads)


def _pretrain(model: nn.Module, task: ModelOptions) -> float | None:
    text = torch.frombuffer(bytearray(english()), dtype=torch.uint8)
    starts, steps, warmup = generator(task.base_seed, "pretraining"), task.pretrain_steps, RECIPE["warmup"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["lr"], betas=(0.9, 0.95), weight_decay=0.1)
    ramp = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [ramp, fall], [warmup])
    losses = []
    for step in range(steps):
        if step % 50 == 0:
            announce(f"pretraining {task.model}, width {task.width}: step {step} of {steps}")
        at = torch.randint(len(text) - RECIPE["length"], (RECIPE["batch"], 1), generator=starts)
        tokens = text[at + torch.arange(RECIPE["length"])].long()
        loss = token_losses(model(input_ids=tokens).logits, tokens).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE["clip"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last) if last else None


def token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """(N, T, V), (N, T) -> (N, T-1): nats of each token given those before it, in float32 at least."""
    predicted = logits[:, :-1].flatten(0, 1)
    predicted = predicted.float() if predicted.dtype.itemsize < 4 else predicted
    return cross_entropy(predicted, tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)


@cache
def english() -> bytes:
    """The text of Python's reference topics."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics)).encode()


def _is_intact(folder: Path) -> bool:
    try:
        base = json.loads((folder / BASE).read_bytes())
        checksums = base["sha256"]
        return "model.safetensors" in checksums and all(_sha256(folder / n) == sum for n, sum in checksums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Held by one process at a time; the system lets go when it ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield

"""How llama_tiny is pretrained: on the text that CPython carries in `pydoc_data.topics`, with bytes as tokens.

In its parametrization `standard`, weights start as transformers draws them, with a standard deviation of 0.02 at every width,
and all are trained at one rate. In `mup` (Yang et al. 2022, arXiv 2203.03466, for Adam) neither features nor their changes
depend on the width: embeddings start at N(0, 1), hidden weights at N(0, 1/fan_in), the head, an output, at N(0, 1/fan_in²), and
matrices but the embedding train at a rate ∝ 1/fan_in, all others at a constant one. Heads of attention have one size at every
width, so that attention divides by its root in both.
"""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from runner.core.messages import announce
from runner.core.rng import generator
from runner.tasks.models import library, spec
from runner.tasks.models.options import MUP, STANDARD, ModelOptions

# Besides the task's fields: part of a base's name, so that a change makes another base. The rate of mup is that at `width`,
# between the best two of four there, and its ε is far below the size of gradients.
RECIPES: dict[str, dict[str, Any]] = {
    STANDARD: {"version": 1, "batch": 16, "length": 128, "lr": 3e-3, "warmup": 50, "clip": 1.0},
    MUP: {"version": 1, "batch": 16, "length": 128, "lr": 1.6e-2, "warmup": 50, "clip": 1.0, "eps": 1e-12, "width": 64},
}
DECAY = 0.1  # of weights, times the rate
THREADS = 2  # whatever the machine has: a product divided otherwise rounds otherwise


def pretrain(task: ModelOptions) -> tuple[nn.Module, float | None]:
    """(model, mean loss of its last tenth of steps in nats per byte): AdamW with warm-up and a cosine to zero."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(task.base_seed, "base").initial_seed())
            config = spec.configuration(task.model, task.width, task.layers)
            model = library().AutoModelForCausalLM.from_config(config).train()
            if task.parametrization == MUP:
                draw(model)
        return model, _train(model, task)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def draw(model: nn.Module) -> None:
    """Weights as `mup` has them at the start; those of norms stay 1."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    embedding.weight.normal_()
    for module in spec.linear_layers(model).values():
        fan_in = module.weight.shape[1]
        module.weight.normal_(std=1 / fan_in if module is head else fan_in**-0.5)


def groups(model: nn.Module, task: ModelOptions) -> list[dict[str, Any]]:
    """Parameters of one rate, for torch's optimizers. Under `mup`, whose rates differ, lr·weight_decay is the same for all."""
    recipe = RECIPES[task.parametrization]
    if task.parametrization == STANDARD:
        return [{"params": list(model.parameters()), "lr": recipe["lr"], "weight_decay": DECAY}]
    hidden = {module.weight: module.weight.shape[1] for module in spec.linear_layers(model).values()}
    shares = [(p, recipe["width"] / hidden[p] if p in hidden else 1.0) for p in model.parameters()]
    return [{"params": [p], "lr": recipe["lr"] * share, "weight_decay": DECAY / share} for p, share in shares]


def _train(model: nn.Module, task: ModelOptions) -> float | None:
    text, recipe = torch.frombuffer(bytearray(english()), dtype=torch.uint8), RECIPES[task.parametrization]
    starts, steps, warmup = generator(task.base_seed, "pretraining"), task.pretrain_steps, recipe["warmup"]
    optimizer = torch.optim.AdamW(groups(model, task), betas=(0.9, 0.95), eps=recipe.get("eps", 1e-8))
    ramp = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [ramp, fall], [warmup])
    losses = []
    for step in range(steps):
        if step % 50 == 0:
            announce(f"pretraining {task.model}, width {task.width}: step {step} of {steps}")
        at = torch.randint(len(text) - recipe["length"], (recipe["batch"], 1), generator=starts)
        tokens = text[at + torch.arange(recipe["length"])].long()
        logits = model(input_ids=tokens).logits[:, :-1]
        # torch's own loss: rounded otherwise, it would make another base
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last) if last else None


@cache
def english() -> bytes:
    """The text of Python's reference topics."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics)).encode()

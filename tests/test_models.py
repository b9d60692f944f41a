"""Stacks on transformers models against PEFT, run by run in float64, and what hooks leave behind."""

import peft
import pytest
import torch
import transformers
from conftest import configure, rejects
from models import checkpoint, rows
from torch import Tensor

from runner.tasks.models import ModelTask
from runner.train import build_adapters, build_task

CPU, DOUBLE = torch.device("cpu"), torch.float64
SMALL = ["dtype=float64", "device=cpu", "adapter.rank=3", "adapter.alpha=6", "steps=3"]
CASES = [
    ("language_model", "llama", "all-linear"),
    ("language_model", "gpt2", "all-linear"),
    ("language_model", "gpt2", "[c_attn,mlp.c_proj]"),
    ("classification", "roberta", "attention"),
    ("classification", "llama", "mlp"),
]


def overrides(folder, task: str, kind: str, targets: str = "all-linear") -> list[str]:
    labels = 3 if task == "classification" else None
    more = ["task.labels=3", "task.text_columns=[text]"] if labels else []
    return [
        f"task={task}", f"task.model={checkpoint(folder / 'model', kind, labels)}",
        f"task.dataset={rows(folder / 'd.jsonl', 60)}",
        f"task.targets={targets}", "task.sequence_length=16", "task.batch_size=4",
        "task.eval_sequences=6", "probe.size=20", *more, *SMALL,
    ]  # fmt: skip


def stack(folder, task: str, kind: str, targets: str = "all-linear", *more: str):
    """A task, its configurations (two seeds, two alphas) and adapters with nothing at zero."""
    shared = overrides(folder, task, kind, targets)
    configs = [
        configure(*shared, *more, f"seed={seed}", f"adapter.alpha={alpha}") for seed, alpha in ((0, 6), (1, 2), (1, 6))
    ]
    task = build_task(configs).to(CPU, DOUBLE)
    adapters = build_adapters(configs, task, CPU, DOUBLE)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for adapter in adapters.values():
            for p in adapter.parameters.values():
                p += torch.randn(p.shape, generator=chance, dtype=DOUBLE) / 5
    return configs, task, adapters


def by_peft(config, task: ModelTask, adapters, k: int, step: int) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """Loss and gradients of run k: PEFT on a model of its own, on that run's batch."""
    is_lm = config.task.name == "language_model"
    kind = transformers.AutoModelForCausalLM if is_lm else transformers.AutoModelForSequenceClassification
    more = {} if is_lm else {"num_labels": config.task.labels}
    model = kind.from_pretrained(config.task.model, dtype=DOUBLE, **more)
    lora = peft.LoraConfig(
        r=config.adapter.rank, lora_alpha=config.adapter.alpha, target_modules=list(task.layers),
        fan_in_fan_out="gpt2" in type(task.model).__name__.lower(),
    )  # fmt: skip
    model = peft.inject_adapter_in_model(lora, model).eval()
    modules, parameters = dict(model.named_modules()), {}
    for name in task.layers:
        parameters[name] = {side: getattr(modules[name], f"lora_{side}")["default"].weight for side in "AB"}
    for name in task.heads:
        own = modules[name]
        parameters[name] = {"W": own.weight} | ({} if own.bias is None else {"b": own.bias})
    for name, of_layer in parameters.items():
        for part, p in of_layer.items():
            p.data.copy_(adapters[name].parameters[part][k])
            p.requires_grad_()
    rows = task.order.at(step)[k]
    tokens = task.training.tokens[rows].long()
    if is_lm:
        logs = model(input_ids=tokens).logits.log_softmax(-1)  # the library's own loss is rounded to float32
        loss = -logs[:, :-1].gather(2, tokens[:, 1:, None]).mean()
    else:
        labels = task.training.labels[rows]
        loss = model(input_ids=tokens, attention_mask=task.training.mask[rows].long(), labels=labels).loss
    loss.backward()
    return loss.detach(), {name: {part: p.grad for part, p in of.items()} for name, of in parameters.items()}


def same(ours, theirs) -> None:
    """Relative to the largest entry: sums of a few thousand float64 terms in another order."""
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()


@pytest.mark.parametrize(("task", "kind", "targets"), CASES)
def test_losses_and_gradients_are_pefts(task, kind, targets, tmp_path):
    configs, task, adapters = stack(tmp_path, task, kind, targets)
    losses, gradients = task.loss_and_grad(adapters, step=2)
    names = [(name, part) for name, adapter in adapters.items() for part in adapter.parameters]
    assert len(names) == len(gradients) and not torch.equal(losses[0], losses[1])
    for k, config in enumerate(configs):
        loss, expected = by_peft(config, task, adapters, k, step=2)
        same(losses[k], loss)
        for (name, part), gradient in zip(names, gradients, strict=True):
            same(gradient[k], expected[name][part])
            assert gradient[k].abs().max() > 0
        rejects(same, gradients[0][k], expected[names[0][0]]["A"] * (1 + 1e-8))
    rejects(same, losses[1], losses[2])  # alpha alone tells these two apart

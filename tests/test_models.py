"""Stacks on transformers models against PEFT, run by run in float64, what hooks leave behind, and what is refused."""

import peft
import pytest
import torch
import transformers
from conftest import configure, rejects
from models import CPU, DOUBLE, overrides, same, stack
from torch import Tensor

from runner.config import ConfigError
from runner.tasks.finetuning import ModelTask
from runner.tasks.models import bases, hooks
from runner.training.start import build_adapters
from runner.training.train import build_task, train

CASES = [
    ("language_model", "llama", "all-linear", "lora"),
    ("language_model", "gpt2", "all-linear", "lora"),
    ("language_model", "gpt2", "[c_attn,mlp.c_proj]", "rslora"),
    ("classification", "roberta", "attention", "lora"),
    ("classification", "llama", "mlp", "rslora"),
    ("language_model", "llama", "all-linear", "dora"),
    ("language_model", "gpt2", "all-linear", "dora"),
    ("classification", "roberta", "all-linear", "dora"),
    ("language_model", "llama", "all-linear", "vera"),
    ("language_model", "gpt2", "[c_attn,mlp.c_proj]", "vera"),
    ("classification", "roberta", "attention", "vera"),
]
PARTS = {
    "A": lambda m: m.lora_A["default"].weight,
    "B": lambda m: m.lora_B["default"].weight,
    "m": lambda m: m.lora_magnitude_vector["default"].weight,
    "d": lambda m: m.vera_lambda_d["default"],
    "b": lambda m: m.vera_lambda_b["default"],
}  # PEFT's names of what trains


def by_peft(config, task: ModelTask, adapters, k: int, step: int) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """Loss and gradients of run k: PEFT on a model of its own, on that run's batch."""
    is_lm = config.task.name == "language_model"
    kind = transformers.AutoModelForCausalLM if is_lm else transformers.AutoModelForSequenceClassification
    more = {} if is_lm else {"num_labels": config.task.labels}
    model = kind.from_pretrained(bases.place(config.task, config.bases), dtype=task.model.dtype, **more)
    own, shared = config.adapter, {"r": config.adapter.rank, "target_modules": list(task.layers)}
    shared["fan_in_fan_out"] = "gpt2" in type(task.model).__name__.lower()
    if own.name == "vera":
        adapter = peft.VeraConfig(**shared, projection_prng_key=own.projection_key)
    else:
        kinds = {"use_rslora": own.name == "rslora", "use_dora": own.name == "dora"}
        adapter = peft.LoraConfig(**shared, **kinds, lora_alpha=own.alpha)
    model = peft.get_peft_model(model, adapter, autocast_adapter_dtype=False).eval()
    modules, parameters = dict(model.base_model.model.named_modules()), {}
    for name in task.layers:
        parameters[name] = {part: PARTS[part](modules[name]) for part in adapters[name].parameters}
        if own.name == "vera":
            for buffers in (modules[name].vera_A, modules[name].vera_B):
                buffers["default"] = buffers["default"].double()
    for name in task.heads:
        head = modules[name]
        parameters[name] = {"W": head.weight} | ({} if head.bias is None else {"b": head.bias})
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


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers for it
@pytest.mark.parametrize(("task", "kind", "targets", "adapter"), CASES)
def test_losses_and_gradients_are_pefts(task, kind, targets, adapter, tmp_path):
    configs, task, adapters = stack(tmp_path, task, kind, targets, adapter=adapter)
    task.to_step(2)
    losses, gradients = task.loss_and_grad(adapters)
    names = [(name, part) for name, adapter in adapters.items() for part in adapter.parameters]
    assert len(names) == len(gradients) and not torch.equal(losses[0], losses[1])
    for k, config in enumerate(configs):
        loss, expected = by_peft(config, task, adapters, k, step=2)
        same(losses[k], loss)
        for (name, part), gradient in zip(names, gradients, strict=True):
            same(gradient[k], expected[name][part])
            assert gradient[k].abs().max() > 0
        layer, part = names[0]
        rejects(same, gradients[0][k], expected[layer][part] * (1 + 1e-8))
    rejects(same, losses[1], losses[2])  # alpha, or the key of the projections, alone tells these two apart


def test_hooks_leave_no_trace(tmp_path):
    """The frozen model's outputs are the same bits before, with adapters that are zero, and after; and no hook is left."""

    def same(a, b):
        assert torch.equal(a, b)

    _, task, adapters = stack(tmp_path, "language_model", "llama")
    tokens = task.held_out.tokens[:3].long()
    before = task.model(input_ids=tokens).logits
    task.probe(20)
    task.loss_and_grad(adapters)
    task.evaluate(adapters)
    same(task.model(input_ids=tokens).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in task.model.modules())
    zero = build_adapters(
        [configure(*overrides(tmp_path, "language_model", "llama"), "init=zero")] * 3, task, CPU, DOUBLE
    )
    with hooks.attached(task.modules, zero):
        same(task.model(input_ids=tokens).logits, before)
    with hooks.attached(task.modules, adapters):
        rejects(same, task.model(input_ids=tokens).logits, before)


def test_hooks_go_when_training_fails(tmp_path):
    _, task, adapters = stack(tmp_path, "language_model", "llama")
    del task.training
    with pytest.raises(AttributeError):
        task.loss_and_grad(adapters)
    assert not any(m._forward_hooks for m in task.model.modules())


def test_measuring_changes_no_bit_of_what_is_measured(tmp_path):
    """Runs with every metric and without: the same losses."""
    shared = [*overrides(tmp_path, "language_model", "llama"), "steps=6", "eval.every=6"]
    [often], [seldom] = (train([configure(*shared, *more)]) for more in (["log.layers=true"], ["log.every=6"]))
    kept = often.steps[often.steps["step"].isin(seldom.steps["step"])].reset_index(drop=True)
    assert kept.equals(seldom.steps.reset_index(drop=True)) and len(kept) == 2


def test_features_are_measured_on_what_the_frozen_layers_read(tmp_path):
    """Z_A of a layer, from its input in transformers' own forward pass at the probe's tokens."""
    _, task, _ = stack(tmp_path, "language_model", "llama")
    x = task.model(input_ids=task.held_out.tokens.long(), output_hidden_states=True).hidden_states[0]
    expected = task.model.model.layers[0].input_layernorm(x).flatten(0, 1)
    places = torch.linspace(0, len(expected) - 1, 20).round().long()
    probe = task.probe(20)
    assert list(probe) == list(task.layers)
    torch.testing.assert_close(probe["model.layers.0.self_attn.q_proj"].Z, expected[places], rtol=1e-12, atol=0)


def test_a_model_that_mixes_the_batch_is_refused(tmp_path, monkeypatch):
    """A norm over the batch, put into a real model by a hook of its own."""
    config = configure(*overrides(tmp_path, "language_model", "llama"))
    task = build_task([config])
    task.model.model.layers[0].mlp.register_forward_hook(
        lambda module, inputs, output: output - output.mean(0, keepdim=True)
    )
    with pytest.raises(ConfigError, match="mix the sequences of a batch"):
        task.to(CPU, DOUBLE)


def test_a_batch_that_mixes_is_seen_in_bfloat16_too(tmp_path):
    """And rounding alone is not taken for it."""
    for task_name, kind in (("language_model", "llama"), ("classification", "roberta")):
        folder = tmp_path / kind
        folder.mkdir()
        shared = [*overrides(folder, task_name, kind), "dtype=float32", "task.base_dtype=bfloat16"]
        build_task([configure(*shared)]).to(CPU, torch.float32)
        task = build_task([configure(*shared)])
        first = next(m for name, m in task.model.named_modules() if name.endswith(("layers.0", "layer.0")))
        first.register_forward_hook(lambda module, inputs, output: output - output.mean(0, keepdim=True))
        with pytest.raises(ConfigError, match="mix the sequences of a batch"):
            task.to(CPU, torch.float32)

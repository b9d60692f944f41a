"""Runs that were trained and exported, and models of PEFT's from their folders."""

import json

import peft
import torch
import transformers
from conftest import configure
from models import CPU, DOUBLE
from safetensors.torch import load_file

from runner.store.runs import Store
from runner.tasks.models import hooks
from runner.training.start import build_adapters
from runner.training.train import build_task, train

MODELS = {"llama": "language_model", "roberta": "classification"}


def configured(shared, kind: str, adapter: str, *more: str):
    """Of rank 4, s = 3/2, and few steps at a large rate, so that everything has moved."""
    small = [o for o in shared[kind] if not o.startswith("adapter")]
    alpha = [] if adapter == "vera" else ["adapter.alpha=6"]
    return configure(*small, f"adapter={adapter}", "adapter.rank=4", *alpha, "steps=3", "optimizer.lr=0.05", *more)


def stored(config, tmp_path):
    """The folder of the trained run, and the logits of its model on a few held-out sequences."""
    [outcome] = train([config])
    assert outcome.status == "finished"
    config.outputs = str(tmp_path / "outputs")
    with Store(config.outputs) as store:
        store.claim(config)
        run = store.write(config, outcome, {})
    task = build_task([config]).to(CPU, DOUBLE)
    adapters = build_adapters([config], task, CPU, DOUBLE)
    weights = load_file(run / "adapter.safetensors")
    with torch.no_grad():
        for layer, adapter in adapters.items():
            for name, p in adapter.parameters.items():
                p[0] = weights[f"{layer}.{name}"]
    with hooks.attached(task.modules, adapters):
        return run, task, logits(task.model, task)


def logits(model, task):
    tokens, mask = task.held_out.tokens[:3].long(), task.held_out.mask
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=None if mask is None else mask[:3].long()).logits


def by_peft(config, base, folder):
    """PEFT's model from the folder, on a base of its own."""
    is_lm = config.task.name == "language_model"
    kind = transformers.AutoModelForCausalLM if is_lm else transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(base, dtype=DOUBLE, **({} if is_lm else {"num_labels": 3}))
    return peft.PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).eval()


def logits_at_the_start(shared, kind, adapter, base, folder):
    """Of a run that starts from the folder on that base, with the rank and alpha that the folder names."""
    its = json.loads((folder / "adapter_config.json").read_text())
    alpha = [] if adapter == "vera" else [f"adapter.alpha={its['lora_alpha']}"]
    fields = [f"adapter.rank={its['r']}", *alpha, f"adapter.start_from={folder}", f"task.model={base}"]
    config = configured(shared, kind, adapter, *fields)
    task = build_task([config]).to(CPU, DOUBLE)
    with hooks.attached(task.modules, build_adapters([config], task, CPU, DOUBLE)):
        return logits(task.model, task)


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))

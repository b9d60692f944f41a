"""What is trained here loads in PEFT with the same logits, and what PEFT has written is where a run can start."""

import json

import pandas as pd
import peft
import pytest
import torch
import transformers
from conftest import rejects
from folders import MODELS, by_peft, configured, logits, logits_at_the_start, stored
from models import CPU, DOUBLE, same
from safetensors.torch import load_file, save_file

from runner.config import ConfigError
from runner.config.registry import ADAPTERS, INITS
from runner.export import main
from runner.tasks.models import hooks
from runner.training.start import build_adapters
from runner.training.train import build_task, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # PEFT asks transformers for it
KINDS = {name: kind for name, kind in ADAPTERS.items() if kind.peft}  # that PEFT has, too
STARTS = [(a, n) for a, kind in KINDS.items() for n, i in INITS.items() if set(i.parameters) <= kind.sides.keys()]


# All inits of LoRA on one model, every second of other adapters; of the other model one of each adapter, and inits of LoRA that
# look at data or change the base.
EXPORTED = [("llama", a, n) for i, (a, n) in enumerate(STARTS) if a == "lora" or i % 2]
EXPORTED += [
    ("roberta", a, n) for a, n in STARTS if n == "gaussian_A" or ((INITS[n].needs or INITS[n].replaces) and a == "lora")
]


@pytest.mark.parametrize(("kind", "adapter", "init"), EXPORTED, ids=str)
def test_an_exported_run_has_its_logits_in_peft_and_where_another_starts(kind, adapter, init, shared, tmp_path, capsys):
    config = configured(shared, kind, adapter, f"init={init}", *(["init.examples=8"] if INITS[init].needs else []))
    run, task, expected = stored(config, tmp_path)
    assert main([str(run), str(tmp_path / "out")]) == 0, capsys.readouterr().err
    base = tmp_path / "out" / "base" if INITS[init].replaces else config.task.model
    model = by_peft(config, base, tmp_path / "out")
    same(logits(model, task), expected)
    same(logits_at_the_start(shared, kind, adapter, base, tmp_path / "out"), expected)
    if init != "zero" or kind == "roberta":  # whose head trains
        with model.disable_adapter():
            rejects(same, logits(model, task), expected)


@pytest.mark.parametrize("adapter", KINDS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_run_starts_where_an_exported_one_ended(kind, adapter, shared, tmp_path):
    config = configured(shared, kind, adapter)
    run, *_ = stored(config, tmp_path)
    main([str(run), str(tmp_path / "out")])
    ended = json.loads((run / "summary.json").read_text())["final_eval_loss"]

    def starts_there(*more):
        [outcome] = train([configured(shared, kind, adapter, *more)])
        assert outcome.steps["eval/loss"].iloc[0] == pytest.approx(ended, rel=1e-12)

    starts_there(f"adapter.start_from={tmp_path / 'out'}")
    rejects(starts_there)


def test_a_run_starts_where_an_adapter_of_peft_is(shared, tmp_path):
    """PEFT's own folder, with its own names for the same things."""
    config = configured(shared, "llama", "dora")
    model = transformers.AutoModelForCausalLM.from_pretrained(config.task.model, dtype=DOUBLE)
    targets = ["q_proj", "v_proj"]
    theirs = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=targets), autocast_adapter_dtype=False
    )
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * p.requires_grad
    theirs.save_pretrained(tmp_path / "theirs")
    config = configured(
        shared, "llama", "dora", f"adapter.start_from={tmp_path / 'theirs'}", "task.targets=[q_proj,v_proj]"
    )
    task = build_task([config]).to(CPU, DOUBLE)
    adapters = build_adapters([config], task, CPU, DOUBLE)
    with hooks.attached(task.modules, adapters):
        same(logits(task.model, task), logits(theirs.eval(), task))


def test_patterns_are_regular_expressions_as_in_peft(shared, tmp_path):
    config = configured(shared, "llama", "lora")
    model = transformers.AutoModelForCausalLM.from_pretrained(config.task.model, dtype=DOUBLE)
    pattern = {r".*mlp\..*": 2}
    lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", rank_pattern=pattern, alpha_pattern=pattern)
    peft.get_peft_model(model, lora).save_pretrained(tmp_path / "theirs")
    fields = ["adapter.alpha=4", f"adapter.start_from={tmp_path / 'theirs'}"]
    config = configured(shared, "llama", "lora", *fields)
    adapters = build_adapters([config], build_task([config]).to(CPU, DOUBLE), CPU, DOUBLE)
    assert len(adapters) == 14  # the default targets: a folder of all layers


def test_vera_takes_the_pair_of_the_folder(shared, tmp_path):
    config = configured(shared, "llama", "vera")
    run, task, expected = stored(config, tmp_path)
    main([str(run), str(tmp_path / "out")])
    path = tmp_path / "out" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"base_model.vera_A": -tensors["base_model.vera_A"]}, path)
    moved = logits_at_the_start(shared, "llama", "vera", config.task.model, tmp_path / "out")
    same(moved, logits(by_peft(config, config.task.model, tmp_path / "out"), task))
    rejects(same, moved, expected)
    save_file(tensors | {"base_model.vera_A": torch.zeros(2, 2)}, path)
    with pytest.raises(ConfigError, match=r"vera_A \(2×2\)"):
        configured(shared, "llama", "vera", f"adapter.start_from={tmp_path / 'out'}")


def test_a_base_that_was_made_of_llama_tiny_is_read_in_bytes(tmp_path, cli, outputs):
    small = ["task=language_model", "task.pretrain_steps=0", "steps=1", f"bases={tmp_path / 'bases'}"]
    small += ["task.sequence_length=16", "task.batch_size=2", "task.eval_sequences=4"]
    cli(*small, "task.width=32", "task.layers=1", "init=loftq")
    [run] = outputs.glob("runs/scratch/*")
    assert main([str(run), str(tmp_path / "out")]) == 0
    cli(*small, f"adapter.start_from={tmp_path / 'out'}", f"task.model={tmp_path / 'out' / 'base'}")
    [started] = set(outputs.glob("runs/scratch/*")) - {run}
    before, after = (pd.read_parquet(folder / "steps.parquet")["eval/loss"] for folder in (run, started))
    assert after.iloc[0] == pytest.approx(before.iloc[-1], rel=1e-5)
    code, _, err = cli(*small, f"adapter.start_from={tmp_path / 'out'}", "task.width=32", "task.layers=1")
    assert code == 2 and "adapts the base beside it" in err

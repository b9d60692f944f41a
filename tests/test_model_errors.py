"""What a user of language models can get wrong is one clear message, before anything is trained; and what works by path."""

import contextlib
import io
import json
import shutil

import pandas as pd
import pytest
import torch
import transformers
from models import CONFIGS, VOCABULARY, checkpoint, rows, tokenizer
from safetensors.torch import load_file, save_file

from runner.tasks.models import checkpoints


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """The hub is out of reach, at once rather than after retries."""
    for library in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(library, True)


@pytest.fixture
def run(cli, tmp_path):
    """`run(…)`: two steps on a checkpoint and a data set that are on disk."""
    kinds = {"language_model": ("llama", None), "classification": ("roberta", 2)}

    def command(*overrides, task="language_model"):
        kind, labels = kinds[task]
        model, data = tmp_path / kind, tmp_path / "data.jsonl"
        if not model.exists():
            checkpoint(model, kind, labels)
            rows(data, 60)
        flags = [override for override in overrides if override.startswith("--")]
        overrides = [override for override in overrides if override not in flags]
        given = [f"task={task}", f"task.model={model}", f"task.dataset={data}"]
        small = "task.text_columns=[text] task.sequence_length=16 adapter.rank=2 steps=2 eval.every=1".split()
        return cli(*flags, *given, *small, *overrides)

    return command


@pytest.mark.parametrize("task", ["language_model", "classification"])
def test_a_checkpoint_and_a_data_set_by_path(task, run, outputs):
    """The whole path of a user without a network: command line, Auto classes, load_dataset, store."""
    code, out, err = run(task=task)
    assert code == 0 and "1 finished" in out, err
    [folder] = outputs.glob("runs/scratch/*/")
    config = (folder / "config.yaml").read_text()
    assert "width: 32" in config and "layers: 2" in config  # the checkpoint's own
    steps = pd.read_parquet(folder / "steps.parquet")
    assert steps["eval/loss"].notna().all() and ("eval/accuracy" in steps) == (task == "classification")
    summary = json.loads((folder / "summary.json").read_text())
    assert ("best_eval_accuracy" in summary) == (task == "classification")
    assert f"{summary['final_eval_loss']:.3g}" in out  # what the report compares runs by


BAD = {
    (
        "task.model=nobody/nothing",
    ): "is neither llama_tiny, smollm2, minilm, nor a checkpoint's folder, nor to be had from the hub",
    ("task.dataset=nobody/nothing",): "task.dataset=nobody/nothing: cannot be loaded",
    ("task.text_columns=[words]",): "has no such column; it has text, label",
    (
        "task.sequence_length=64",
        "task.batch_size=64",
    ): "and 64 are needed; lower task.sequence_length or task.batch_size",
    ("task.targets=[q_proj,w_proj]",): "task.targets=w_proj: matches no linear layer",
    ("task.targets=[]",): "matches no linear layer",
    ("task.targets=3",): "task.targets=3: must be a name or a list of names",
    ("task.sequence_length=65",): "takes up to 64 tokens",
    ("task.accumulation=3",): "task.accumulation=3: must divide task.batch_size=4",
    ("task.width=64",): "task.width=64: ",
    ("task.base_dtype=float16",): "task.base_dtype=float16: unknown; choose one of float32, float64, bfloat16",
    ("adapter.rank=17",): "exceeds min(n_out, n_in)=16 of the adapted layer model.layers.0.self_attn.k_proj",
    ("engine=fused",): "does not know the loss of task=language_model",
    ("task.model=llama_tiny", "task.width=40"): "task.width=40: llama_tiny takes multiples of 32",
    ("bases=",): "bases='': must be the name of a folder",
}


@pytest.mark.parametrize("overrides", BAD, ids=str)
def test_bad_input_is_one_message(overrides, run, outputs):
    code, out, err = run(*overrides)
    assert code == 2 and out == "" and "Traceback" not in err and BAD[overrides] in err, err
    assert err.startswith("error: ") and not list(outputs.glob("runs/*/*/"))


def test_unknown_targets_come_with_those_that_exist(run):
    assert "there are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in run("task.targets=query")[2]


def test_pickled_weights_are_refused(run, tmp_path):
    run()
    weights = tmp_path / "llama" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "llama" / "pytorch_model.bin")
    weights.unlink()
    code, _, err = run("seed=1")
    assert code == 2 and "pickled weights are not loaded" in err


@pytest.mark.parametrize("labels", [3, 5])
def test_labels_must_agree(labels, run):
    """With the checkpoint's own head; and with the data, where the checkpoint has none."""
    code, _, err = run(f"task.labels={labels}", task="classification")
    assert code == 2 and f"task.labels={labels}: " in err and "is a classifier with 2 labels; set task.labels=2" in err


def test_labels_beyond_those_of_the_model_are_named(run, tmp_path):
    data = tmp_path / "three.jsonl"
    data.write_text("".join(json.dumps({"text": "the cat", "label": i % 3}) + "\n" for i in range(60)))
    code, _, err = run(f"task.dataset={data}", task="classification")
    assert code == 2 and "task.labels=2: the column 'label'" in err and "holds 0, 1, 2; the labels must be" in err


def test_a_tokenizer_with_more_words_than_the_model_is_refused(run, tmp_path):
    assert run()[0] == 0
    words = tokenizer()
    words.add_tokens(["zebra"])
    words.save_pretrained(tmp_path / "llama")
    data = tmp_path / "zebras.jsonl"
    data.write_text((tmp_path / "data.jsonl").read_text().replace("cat", "zebra"))
    code, _, err = run(f"task.dataset={data}")
    assert code == 2 and f"its tokenizer gives token {VOCABULARY}, and the model knows {VOCABULARY}" in err


def test_a_sweep_with_one_bad_run_trains_nothing(run, outputs):
    code, _, err = run("--multirun", "task.targets=attention,query")
    assert code == 2 and "matches no linear layer" in err and not list(outputs.glob("runs/*/*/"))


def test_a_field_that_only_the_model_itself_reads_is_named(run, outputs, tmp_path):
    """RoBERTa counts positions from its padding token on, which nothing asks for before the model runs."""
    config = transformers.RobertaConfig(**CONFIGS["roberta"].to_dict() | {"pad_token_id": None, "is_decoder": True})
    code, out, _ = run(f"task.model={saved(tmp_path / 'model', config)}")
    assert code == 1 and "its config.json cannot be used (TypeError: " in out and "; it has pad_token_id=None" in out


def saved(folder, config, kind=transformers.AutoModelForCausalLM):
    """A checkpoint of this configuration, with the tests' tokenizer."""
    with contextlib.redirect_stderr(io.StringIO()):
        kind.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_a_checkpoint_that_lacks_weights_is_refused(run, tmp_path):
    """What it lacks would be drawn at random, another time otherwise."""
    run()
    weights = tmp_path / "llama" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    code, _, err = run("seed=1")
    assert code == 2
    assert "its weights lack 1 tensors of the right size, such as model.layers.1.mlp.up_proj.weight" in err


def test_truncated_weights_are_one_message(run, tmp_path):
    run()
    weights = tmp_path / "llama" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, err = run("seed=1")
    assert code == 2 and "has no weights in safetensors that can be read" in err and "Traceback" not in err


def test_a_model_that_sees_later_tokens_is_no_language_model(run, tmp_path):
    config = transformers.RobertaConfig(**CONFIGS["roberta"].to_dict() | {"is_decoder": False})
    code, out, err = run(f"task.model={saved(tmp_path / 'encoder', config)}")
    assert code == 1 and "sees later tokens when it predicts one" in out + err
    causal = transformers.RobertaConfig(**CONFIGS["roberta"].to_dict() | {"is_decoder": True})
    assert run(f"task.model={saved(tmp_path / 'decoder', causal)}")[0] == 0


@pytest.mark.parametrize("kind", ["t5", "vision"])
def test_models_of_other_kinds_are_refused(kind, run, tmp_path):
    config = {
        "t5": transformers.T5Config(vocab_size=VOCABULARY, d_model=32, d_ff=32, num_layers=1, num_heads=2),
        "vision": transformers.ResNetConfig(),
    }[kind]
    config.save_pretrained(tmp_path / kind)
    code, _, err = run(f"task.model={tmp_path / kind}")
    assert code == 2 and "only models of text alone are supported" in err


def test_a_classifier_of_a_decoder_looks_at_the_last_token_of_a_text(run, outputs, tmp_path):
    """Its configuration names no token for padding, as published ones do not; longer padding then changes nothing."""
    config = transformers.LlamaConfig(**CONFIGS["llama"].to_dict() | {"pad_token_id": None, "architectures": None})
    folder = saved(tmp_path / "decoder", config, transformers.AutoModelForSequenceClassification)
    losses = []
    for length in (14, 40):
        more = [f"task.model={folder}", f"task.sequence_length={length}", "dtype=float64"]
        code, _, err = run(*more, task="classification")
        assert code == 0, err
        [steps] = outputs.glob("runs/scratch/*/steps.parquet")
        losses.append(pd.read_parquet(steps)["eval/loss"].tolist())
        shutil.rmtree(outputs)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # RMSNorm rounds to float32


ROWS = {
    "strings": ([{"text": "the cat", "label": "good"}], "holds 'good'; the labels must be integers"),
    "floats": ([{"text": "the cat", "label": 0.5}], "holds 0.5; the labels"),
    "nulls": ([{"text": "the cat", "label": None}], "holds None; the labels"),
    "booleans": ([{"text": "the cat", "label": True}], "holds True; the labels"),
    "no text": ([{"text": None, "label": 1}, {"text": "a", "label": 1}], "row 0 of"),
    "numbers": ([{"text": 3, "label": 1}], "row 0 of"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_are_no_examples_are_named(case, run, tmp_path):
    rows, message = ROWS[case]
    data = tmp_path / "odd.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 60))
    code, _, err = run(f"task.dataset={data}", task="classification")
    assert code == 2 and message in err and "Traceback" not in err, err


@pytest.mark.parametrize("task", ["language_model", "classification"])
def test_a_data_set_of_one_row_is_too_small(task, run, tmp_path):
    code, _, err = run(f"task.dataset={rows(tmp_path / 'one.jsonl', 1)}", task=task)
    assert code == 2 and "one.jsonl: has 1 row " in err and "two are needed" in err and "Traceback" not in err


def test_the_held_out_files_are_the_ones_that_are_named(run, tmp_path):
    code, _, err = run(f"task.eval_dataset={tmp_path}/nothing.jsonl")
    assert code == 2 and f"task.eval_dataset={tmp_path}/nothing.jsonl: 0 files there" in err


def test_bad_data_are_found_before_a_base_is_pretrained(run, tmp_path):
    code, _, err = run("task.model=llama_tiny", "task.dataset=/nowhere.jsonl", f"bases={tmp_path}/bases")
    assert code == 2 and "pretraining" not in err and not (tmp_path / "bases").exists()


def test_running_out_of_memory_is_not_taken_for_bad_weights(run, monkeypatch):
    """It is an error of the moment: the run is tried again, and then failed with what happened."""

    def exhausted(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    assert run()[0] == 0
    monkeypatch.setattr(checkpoints, "load", exhausted)
    code, out, _ = run("seed=1")
    assert code == 1 and "can't allocate memory" in out and "safetensors" not in out


def test_segments_reach_only_models_that_know_them(run, outputs, tmp_path):
    """A tokenizer may give them for any model; GPT-2 would take them for words."""
    losses = []
    for names in (["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]):
        folder = checkpoint(tmp_path / str(len(names)), "gpt2", 2)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": names}))
        code, _, err = run(f"task.model={folder}", task="classification")
        assert code == 0, err
        [steps] = outputs.glob("runs/scratch/*/steps.parquet")
        losses.append(pd.read_parquet(steps)["eval/loss"].tolist())
        shutil.rmtree(outputs)
    assert losses[0] == losses[1]


def test_an_optimizer_of_factors_alone_trains_no_head(run):
    code, _, err = run("optimizer=lora_muon", task="classification")
    assert (
        code == 2 and "optimizer=lora_muon: trains factors A and B alone, and task=classification trains a head" in err
    )

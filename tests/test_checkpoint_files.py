"""Checkpoints that are not what they seem: nothing in them runs code, and what does not fit is named before it is loaded."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from conftest import configure
from models import checkpoint, rows
from safetensors.torch import load_file, save_file

from runner.config import ConfigError
from runner.config.registry import TASKS
from runner.tasks.models import bases, checkpoints, hub, spec

INDEX = "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def prepared(tmp_path):
    """`prepared(change)`: everything up to training on a small checkpoint that `change` was done to; returns its task."""

    def prepare(change, kind="llama"):
        folder, name = tmp_path / kind, "language_model" if kind == "llama" else "classification"
        checkpoint(folder, kind, None if kind == "llama" else 2)
        change(folder)
        given = [f"task={name}", f"task.model={folder}", f"task.dataset={rows(tmp_path / 'd.jsonl', 60)}"]
        config = configure(*given, "task.text_columns=[text]", "task.sequence_length=16", "adapter.rank=2")
        TASKS[name].prepare(config)
        return config.task

    return prepare


class Code:
    """Whoever unpickles it creates a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def edited(name="config.json", **fields):
    def edit(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def sharded(folder, **elsewhere):
    """The weights in two files and an index, which says of some tensors what it is told to."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: t for name, t in tensors.items() if files[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**files, **elsewhere}}))


def tensors(change):
    def edit(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return edit


def test_shards_are_read_as_one(prepared, tmp_path):
    whole, parts = (bases.load(prepared(change), "", None, torch.float32) for change in (lambda _: None, sharded))
    assert (tmp_path / "llama" / INDEX).exists()
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)


PLACES = {
    "named by the index": (INDEX, "pytorch_model.bin"),
    "outside": (INDEX, "../model.safetensors"),
    "absolute": (INDEX, "/model.safetensors"),
    "under a safe name": (None, "model.safetensors"),
    "alone": (None, "pytorch_model.bin"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_no_pickle_is_loaded_wherever_it_lies(place, how, prepared, tmp_path):
    index, name = PLACES[place]
    mark = tmp_path / "mark"

    def hide(folder):
        sharded(folder, **{UP: name} if index else {})
        if not index:
            (folder / INDEX).unlink()
        if not Path(name).is_absolute():
            pickled = {UP: Code(mark)}
            (folder / name).write_bytes(pickle.dumps(pickled)) if how == "pickle" else torch.save(
                pickled, folder / name
            )

    with pytest.raises(ConfigError, match="pickled weights are not loaded"):
        prepared(hide)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Code(mark))).close()
    assert mark.exists()  # the trap is one


def test_what_lies_beside_safetensors_is_not_looked_at(prepared, tmp_path):
    """Pickles and an adapter, which transformers would load where PEFT is installed; a file that config.json names."""
    mark = tmp_path / "mark"

    def surround(folder):
        for name in ("pytorch_model.bin", "adapter_model.bin"):
            torch.save({UP: Code(mark)}, folder / name)
        about = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(about))
        edited(transformers_weights="adapter_model.bin")(folder)

    model = bases.load(prepared(surround), "", None, torch.float32)
    assert torch.equal(model.state_dict()[UP], load_file(tmp_path / "llama" / "model.safetensors")[UP])
    assert not mark.exists() and not any("lora" in name for name in model.state_dict())


@pytest.mark.parametrize(("model_type", "of"), [("llama", "tokenizer"), ("evil", "model_type='evil'")])
def test_code_of_a_checkpoint_is_not_run(model_type, of, prepared, tmp_path):
    def write(folder):
        (folder / "code.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass C: pass\n")
        own = {name: "code.C" for name in ("AutoConfig", "AutoModelForCausalLM")}
        edited(model_type=model_type, auto_map=own)(folder)
        map_ = {"AutoTokenizer": ["code.C", "code.C"]}
        edited("tokenizer_config.json", auto_map=map_, tokenizer_class="Unknown")(folder)

    with pytest.raises(ConfigError, match=rf"{of}.* code.* not run") as error:
        prepared(write)
    assert "trust_remote_code" not in str(error.value) and not (tmp_path / "mark").exists()


FIELDS = [
    ({"hidden_act": "swishy"}, "its config.json cannot be used (KeyError: 'swishy'); it has hidden_act='swishy'"),
    ({"vocab_size": 10**12}, "lm_head.weight (21×32, and config.json makes it 1000000000000×32)"),
    ({"vocab_size": 0}, "its config.json has vocab_size=0; it must be an integer of at least 1"),
    ({"hidden_size": 0}, "its config.json has hidden_size=0"),
    ({"hidden_size": -32}, "its config.json has hidden_size=-32"),
    ({"hidden_size": "32"}, "'hidden_size' expected int, got str"),
    ({"hidden_size": None}, "'hidden_size' expected int, got NoneType"),
    ({"intermediate_size": -1}, "it has intermediate_size=-1"),
    ({"num_attention_heads": 0}, "it has num_attention_heads=0"),
    ({"num_attention_heads": 3}, "not a multiple of the number of attention heads (3)"),
    ({"num_key_value_heads": 2}, "model.layers.0.self_attn.k_proj.weight (16×32, and config.json makes it 32×32)"),
    ({"num_hidden_layers": 3}, "its weights lack 9 tensors"),
    ({"num_hidden_layers": 1}, "layers that its config.json does not have, such as model.layers.1.input_layernorm"),
    ({"rope_scaling": "x"}, "'rope_parameters' with value 'x'"),
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "config.json has quantization_config"),
    ({"model_type": None}, "model_type=None, which transformers"),
]


@pytest.mark.parametrize(("fields", "told"), FIELDS, ids=str)
def test_a_configuration_that_cannot_be_is_refused_by_its_field(fields, told, prepared):
    with pytest.raises(ConfigError) as error:
        prepared(edited(**fields))
    message = str(error.value)
    assert message.startswith("task.model=/") and told in message and "\n" not in message, message


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"model_type": "llama"', "\ufeff{", "[" * 10**5], ids=lambda t: t[:9]
)
def test_a_damaged_configuration_is_one_line(text, prepared):
    with pytest.raises(ConfigError, match=r"its config\.json cannot be used"):
        prepared(lambda folder: (folder / "config.json").write_text(text))


@pytest.mark.parametrize("field", ["_attn_implementation", "attn_implementation", "torch_dtype", "dtype"])
@pytest.mark.parametrize("value", ["flash_attention_2", "kernels-community/flash-attn"])
def test_what_we_choose_a_checkpoint_does_not(field, value, prepared):
    """Kernels that are not installed, or that the hub would send as code; a precision."""
    task = prepared(edited(**{field: value}))
    model = bases.load(task, "", None, torch.float64)
    assert model.dtype == torch.float64 and model.config._attn_implementation == "sdpa"


TENSORS = {
    "not finite": (lambda t: t | {UP: t[UP] / 0}, f"its {UP} holds numbers that are not finite"),
    "quantized": (lambda t: t | {UP: t[UP].to(torch.int8)}, f"its {UP} is of type I8"),
    "transposed": (lambda t: t | {UP: t[UP].T.contiguous()}, f"{UP} (32×48, and config.json makes it 48×32)"),
    "a number": (lambda t: t | {UP: torch.ones(())}, f"{UP} (one number, and config.json makes it 48×32)"),
    "none": (lambda t: {}, "its weights lack 21 tensors"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_named(case, prepared):
    change, message = TENSORS[case]
    with pytest.raises(ConfigError) as error:
        bases.load(prepared(tensors(change)), "", None, torch.float32)
    assert message in str(error.value)


def test_only_the_head_of_a_classifier_may_be_missing(prepared):
    prepared(tensors(lambda t: {name: v for name, v in t.items() if "classifier" not in name}), "roberta")
    with pytest.raises(ConfigError, match="such as roberta"):
        prepared(tensors(lambda t: {name: v for name, v in t.items() if "layer.1.output" not in name}), "roberta")


def test_an_adapter_is_no_checkpoint(prepared):
    def replace(folder):
        (folder / "config.json").rename(folder / "adapter_config.json")

    with pytest.raises(ConfigError, match=r"this is an adapter: .* adapter\.start_from"):
        prepared(replace)


def test_a_tokenizer_that_fails_on_text_is_named(prepared):
    with pytest.raises(ConfigError, match="its tokenizer fails"):
        prepared(edited("tokenizer_config.json", model_max_length="x"))


def test_a_skeleton_takes_no_memory(prepared):
    model = spec.skeleton(prepared(lambda _: None).model, None, None, None)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_trouble_of_the_moment_is_not_blamed_on_the_checkpoint(prepared, monkeypatch, tmp_path):
    """Before training it is one line; while a run trains it is no ConfigError, which would forbid a second try."""

    def fails(*arguments):
        raise OSError(28, "No space left on device")

    task = prepared(lambda folder: None)
    for model, where in (("some/llama", (hub, "files")), (task.model, (checkpoints, "_tensors"))):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "folder", lambda model: tmp_path / "llama")
            patch.setattr(*where, fails)
            network = spec.skeleton(task.model, None, None, None)
            told = (
                rf"^task\.model={model}: its weights cannot be had \(.*No space left.*\); the same command tries again$"
            )
            with pytest.raises(ConfigError, match=told):
                checkpoints.check(model, network, None)
            with pytest.raises(OSError, match="No space left"):
                checkpoints.load(model, network, None, torch.float32)

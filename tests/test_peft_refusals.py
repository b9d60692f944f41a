"""Adapter folders that do not fit or are damaged, and runs that cannot be exported: each is refused with what is wrong."""

import os
import re

import pytest
import torch
from conftest import configure
from folders import configured, edit, stored
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stored import seal

from runner.config import ConfigError
from runner.export import main
from runner.tasks.models import peft

MISMATCHES = {
    "adapter.rank=3": "adapter.rank=3: ",
    "adapter.alpha=4": "adapter.alpha=4.0: ",
    "adapter=rslora": "adapter=rslora: ",
    "task.targets=[q_proj]": "task.targets=['q_proj']: ",
    "task.targets=all-linear": "task.targets=all-linear: ",
    "init=pissa": "init=pissa: ",
    "init=gaussian_B": "init=gaussian_B: ",
    "adapter.start_from=nowhere": "adapter.start_from=nowhere: there is no adapter_config.json",
    "task=teacher_student": "adapter.start_from=",
}


@pytest.mark.parametrize("override", MISMATCHES)
def test_a_folder_that_does_not_fit_is_refused_with_the_field(override, folder, shared):
    fields = ["task.targets=[q_proj,v_proj]", f"adapter.start_from={folder}"]
    configured(shared, "llama", "lora", *fields)
    if override == "task=teacher_student":
        with pytest.raises(ConfigError, match="is for transformers models"):
            configure(override, f"adapter.start_from={folder}")
        return
    if override == "adapter=rslora":
        with pytest.raises(ConfigError) as refused:
            configured(shared, "llama", "rslora", *fields)
    else:
        with pytest.raises(ConfigError) as refused:
            configured(shared, "llama", "lora", *fields, override)
    assert str(refused.value).startswith(MISMATCHES[override]), refused.value


def resave(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def test_a_factor_that_is_zero_in_the_folder_is_not_to_be_frozen(folder, shared):
    """As B is in one that PEFT wrote before training."""
    fields = ["task.targets=[q_proj,v_proj]", f"adapter.start_from={folder}"]
    configured(shared, "llama", "lora", *fields, "adapter.freeze=B")
    resave(folder, lambda tensors: {name: t * ("lora_A" in name) for name, t in tensors.items()})
    configured(shared, "llama", "lora", *fields, "adapter.freeze=A")
    with pytest.raises(ConfigError, match=r"^adapter\.freeze=B: B is zero in .*freeze that one"):
        configured(shared, "llama", "lora", *fields, "adapter.freeze=B")


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(name)}


VALUE = "layers.1.self_attn.v_proj"
EXTRA = {f"base_model.model.model.{VALUE}.lora_magnitude_vector": torch.zeros(16)}
HEAD = {"base_model.model.lm_head.weight": torch.zeros(2, 2)}
DAMAGES = {  # what is said -> what is wrong
    "there is no adapter_model.safetensors": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "adapter_model.safetensors cannot": lambda folder: (folder / "adapter_model.safetensors").write_bytes(
        b"\x08\0\0\0"
    ),
    "adapter_config.json cannot be read (Exp": lambda folder: (folder / "adapter_config.json").write_text('{"r": 4'),
    "adapter_config.json cannot be read (max": lambda folder: (folder / "adapter_config.json").write_text(10**5 * "["),
    "lora_A.weight (4×5)": lambda folder: resave(
        folder, lambda ts: {n: t[..., :5].contiguous() for n, t in ts.items()}
    ),
    "has lm_head.weight, with": lambda folder: resave(folder, lambda ts: ts | HEAD),
    f"has model.{VALUE}.lora_magnitude_vector, with": lambda folder: resave(folder, lambda ts: ts | EXTRA),
    f"has no model.{VALUE}.lora_B.weight": lambda folder: resave(folder, without(f"{VALUE}.lora_B.weight")),
    "has init_lora_weights=pissa": lambda folder: edit(folder, init_lora_weights="pissa_niter_4"),
    "has bias=all": lambda folder: edit(folder, bias="all"),
    "has layer_replication=[[0, 2]]": lambda folder: edit(folder, layer_replication=[[0, 2]]),
    "has alpha_pattern=2.0 at layer": lambda folder: edit(folder, alpha_pattern={"q_proj": 2.0}),
    "it must be 2×32": lambda folder: edit(folder, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3.0}),
    "has r=None": lambda folder: edit(folder, r=None),
    "has r='4'": lambda folder: edit(folder, r="4"),
    "has rank_pattern=[1]": lambda folder: edit(folder, rank_pattern=[1]),
    "has alpha_pattern={'q_proj': '8'}": lambda folder: edit(folder, alpha_pattern={"q_proj": "8"}),
    "has rank_pattern={'q_proj': 0}": lambda folder: edit(folder, rank_pattern={"q_proj": 0}),
    "its keys must be regular expressions": lambda folder: edit(folder, rank_pattern={"(": 4}),
    "has peft_type=IA3": lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_a_damaged_folder_is_refused(said, folder, shared):
    DAMAGES[said](folder)
    with pytest.raises(ConfigError, match=rf"^adapter\.start_from=.*{re.escape(said)}"):
        configured(shared, "llama", "lora", "task.targets=[q_proj,v_proj]", f"adapter.start_from={folder}")


def test_an_error_without_a_text_is_told_by_its_type(folder, monkeypatch):
    def silent(*arguments):
        raise OSError

    monkeypatch.setattr("runner.tasks.models.peft.load_file", silent)
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors cannot be read \(OSError\)"):
        peft.read(folder)


def test_a_head_of_another_size_and_dropout_that_a_product_would_miss_are_refused(shared, tmp_path):
    run, *_ = stored(configured(shared, "roberta", "lora"), tmp_path)
    main([str(run), str(tmp_path / "out")])
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    name = "base_model.model.classifier.out_proj.weight"
    save_file(weights | {name: weights[name][:2].contiguous()}, tmp_path / "out" / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"^task.labels=3: .*out_proj"):
        configured(shared, "roberta", "lora", f"adapter.start_from={tmp_path / 'out'}")
    with pytest.raises(ConfigError, match=r"^adapter.dropout=0.1: init=pissa takes 0"):
        configured(shared, "llama", "lora", "init=pissa", "adapter.dropout=0.1")


def test_what_cannot_be_exported_is_said(shared, tmp_path, capsys, cli, outputs):
    cli("steps=1", "task.width=8", "task.train_points=4")
    [toy] = outputs.glob("runs/scratch/*/meta.json")
    run, *_ = stored(configured(shared, "llama", "lora"), tmp_path)
    for arguments, message in (
        ([str(toy.parent), str(tmp_path / "a")], "task=teacher_student has no transformers model"),
        ([str(tmp_path), str(tmp_path / "a")], "is not the folder of a run"),
        ([str(run), str(tmp_path)], "is there already"),
    ):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and message in err
    for name in ("adapter.safetensors", "config.yaml"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[:-1] + b" ")
        assert (
            main([str(run), str(tmp_path / "a")]) == 2
            and f"{name} differs from its checksum" in capsys.readouterr().err
        )
        (run / name).write_bytes(whole)
    config = run / "config.yaml"
    text = config.read_text()
    for forged in ("- 1\n", "a\n", "task: []\n", f"{text}a: &a [1]\nb: *a\n", text.replace("adapter:", "other:")):
        config.write_text(forged)
        seal(run)
        assert main([str(run), str(tmp_path / "a")]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {run}: is not the folder of a run, or is damaged") and err.count("\n") == 1
    config.write_text(text)
    seal(run)
    (run / "adapter.safetensors").unlink()
    os.mkfifo(run / "adapter.safetensors")
    assert main([str(run), str(tmp_path / "a")]) == 2 and "is no regular file" in capsys.readouterr().err
    (run / "meta.json").write_text('{"status": "finished", "sha256": null, "versions": {}}')
    assert main([str(run), str(tmp_path / "a")]) == 2 and "is damaged" in capsys.readouterr().err


def test_an_export_that_fails_leaves_nothing_and_can_be_tried_again(shared, tmp_path, capsys, monkeypatch):
    run, *_ = stored(configured(shared, "llama", "lora"), tmp_path)

    def full(*arguments):
        raise SafetensorError("I/O error: File too large (os error 27)")

    def silent(*arguments):
        raise SafetensorError

    for trouble, said in ((full, "I/O error: File too large"), (silent, "SafetensorError")):
        with monkeypatch.context() as patch:
            patch.setattr("runner.tasks.models.peft.save_file", trouble)
            assert main([str(run), str(tmp_path / "out")]) == 2
        assert f"cannot be made ({tmp_path / 'out'}: {said}" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name and path.name != "outputs"]
    assert main([str(run), str(tmp_path / "out")]) == 0


def test_another_base_is_refused_or_told(shared, folder, tmp_path, capsys):
    fields = ["task.targets=[q_proj,v_proj]", f"adapter.start_from={folder}"]
    edit(folder, base_model_name_or_path="somewhere/else")
    configured(shared, "llama", "lora", *fields)
    assert f"{folder} adapts somewhere/else; task.model=" in capsys.readouterr().err
    with pytest.raises(
        ConfigError,
        match=r"^task\.model=llama_tiny: .* adapts somewhere/else, and the task's fields make llama_tiny-n32",
    ):
        configure("task=language_model", "task.width=32", "adapter.alpha=6", *fields)
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"adapts the base beside it; set task\.model=.*base"):
        configured(shared, "llama", "lora", *fields)

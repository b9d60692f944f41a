"""Adapter folders that do not fit or are damaged, and runs that cannot be exported: each is refused with what is wrong."""

import pytest
import torch
from conftest import configure
from folders import configured, edit, stored
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from runner.export import main
from runner.schema import ConfigError

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


DAMAGES = {
    "no weights": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "cut weights": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0"),
    "cut config": lambda folder: (folder / "adapter_config.json").write_text('{"r": 4'),
    "another model": lambda folder: save_file(
        {n: t[..., :5].contiguous() for n, t in load_file(folder / "adapter_model.safetensors").items()},
        folder / "adapter_model.safetensors",
    ),
    "unknown tensors": lambda folder: save_file(
        load_file(folder / "adapter_model.safetensors") | {"base_model.model.lm_head.weight": torch.zeros(2, 2)},
        folder / "adapter_model.safetensors",
    ),
    "another base": lambda folder: edit(folder, init_lora_weights="pissa_niter_4"),
    "more than LoRA": lambda folder: edit(folder, bias="all"),
    "a scale a layer": lambda folder: edit(folder, alpha_pattern={"q_proj": 2.0}),
    "a rank a layer that is not": lambda folder: edit(
        folder, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3.0}
    ),
    "no rank": lambda folder: edit(folder, r=None),
    "a rank that is text": lambda folder: edit(folder, r="4"),
    "a pattern that is a list": lambda folder: edit(folder, rank_pattern=[1]),
    "a pattern of text": lambda folder: edit(folder, alpha_pattern={"q_proj": "8"}),
    "a rank of zero": lambda folder: edit(folder, rank_pattern={"q_proj": 0}),
    "no regular expression": lambda folder: edit(folder, rank_pattern={"(": 4}),
    "deep": lambda folder: (folder / "adapter_config.json").write_text(10**5 * "["),
    "layers in another order": lambda folder: edit(folder, layer_replication=[[0, 2]]),
    "another kind": lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused(damage, folder, shared):
    DAMAGES[damage](folder)
    with pytest.raises(ConfigError, match=r"^adapter\.start_from="):
        configured(shared, "llama", "lora", "task.targets=[q_proj,v_proj]", f"adapter.start_from={folder}")


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
        assert main([str(run), str(tmp_path / "a")]) == 2 and f"{name} is damaged" in capsys.readouterr().err
        (run / name).write_bytes(whole)
    (run / "meta.json").write_text('{"status": "finished", "sha256": null, "versions": {}}')
    assert main([str(run), str(tmp_path / "a")]) == 2 and "is damaged" in capsys.readouterr().err


def test_an_export_that_fails_leaves_nothing_and_can_be_tried_again(shared, tmp_path, capsys, monkeypatch):
    run, *_ = stored(configured(shared, "llama", "lora"), tmp_path)

    def full(*arguments):
        raise SafetensorError("I/O error: File too large (os error 27)")

    with monkeypatch.context() as patch:
        patch.setattr("runner.models.peft.save_file", full)
        assert main([str(run), str(tmp_path / "out")]) == 2
    assert "cannot be written (I/O error: File too large" in capsys.readouterr().err
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

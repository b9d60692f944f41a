"""Checkpoints of the hub: from its cache, without a network, by the rules for a folder; and names that no hub could have."""

import shutil

import datasets
import huggingface_hub
import pytest
import torch
from conftest import configure
from models import checkpoint, rows
from safetensors.torch import load_file

from runner.config import ConfigError
from runner.config.registry import TASKS
from runner.tasks.models import bases, hub

UP = "model.layers.1.mlp.up_proj.weight"


def hub_of(checkpoint, cache, name):
    """The hub's cache as a download of the checkpoint leaves it: links to files in another folder, under a commit."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in checkpoint.iterdir():
        shutil.copy(path, repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    return snapshot


def test_what_was_downloaded_is_used_without_a_network_and_by_the_same_rules(tmp_path, monkeypatch, capsys):
    """The hub is asked once, does not answer, and is not asked again."""
    cache, asked = tmp_path / "hub", []
    snapshot = hub_of(checkpoint(tmp_path / "llama", "llama"), cache, "some/llama")

    class Session:
        def head(self, *arguments, **options):
            asked.append(arguments)
            raise OSError("no route")

        request = head

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    for module, field in ((huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")):
        monkeypatch.setattr(module, field, False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    hub.ask.cache_clear()
    given = ["task=language_model", f"task.dataset={rows(tmp_path / 'd.jsonl', 60)}", "task.sequence_length=16"]
    config = configure(*given, "task.model=some/llama", "adapter.rank=2")
    TASKS["language_model"].prepare(config)
    model = bases.load(config.task, "", None, torch.float32)
    assert torch.equal(model.state_dict()[UP], load_file(snapshot / "model.safetensors")[UP])
    for bad in ("some/other", "some/lama"):
        with pytest.raises(ConfigError, match="nor to be had from the hub"):
            configure(*given, f"task.model={bad}")
    assert len(asked) == 1 and capsys.readouterr().err.count("does not answer (no route)") == 1
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="pickled weights are not loaded"):
        TASKS["language_model"].prepare(config)
    hub.ask.cache_clear()


@pytest.mark.parametrize("name", ["./nope", "checkpoints/of/mine", "~/llama", "/nowhere", "a b", "models//x"])
def test_what_no_hub_could_have_is_a_missing_folder_at_once(name, monkeypatch):
    monkeypatch.setattr(hub, "ask", lambda: pytest.fail("asked the hub"))
    with pytest.raises(ConfigError, match="there is no such folder"):
        configure("task=language_model", f"task.model='{name}'")

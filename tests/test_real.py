"""Training on real pretrained models, as pip installs them: against PEFT, stacked and alone, and by the documented commands."""

import copy
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import configure, rejects
from models import CPU
from real import FEW, NEEDED, SMOLLM2
from test_docs import blocks, commands
from test_models import by_peft

from runner.config.identity import run_id
from runner.config.registry import TASKS
from runner.export import main as export
from runner.tasks.models.text import Order
from runner.training.start import build_adapters
from runner.training.train import build_task

pytestmark = [NEEDED, pytest.mark.usefixtures("no_network")]


@pytest.fixture(scope="module")
def stack():
    """A task on SmolLM2 in float32, configurations (two seeds, two scales) and adapters with nothing at zero."""
    configs = [
        configure(*SMOLLM2, f"seed={seed}", f"adapter.alpha={alpha}") for seed, alpha in ((0, 4), (1, 4), (1, 8))
    ]
    task = build_task(configs).to(CPU, torch.float32)
    adapters = build_adapters(configs, task, CPU, torch.float32)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for adapter in adapters.values():
            for p in adapter.parameters.values():
                p += torch.randn(p.shape[1:], generator=chance) / 20  # the same of all runs
    return configs, task, adapters


def near(ours, theirs):
    """Relative to the largest entry. A pass through 30 layers and back takes some 10^3 sums of 10^2 to 10^3 terms one after the
    other, each rounded to 2^-24 of its size in an order of its own: about sqrt(10^3)·sqrt(10^3)·2^-24 = 6e-5."""
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 6e-5 * theirs.abs().max()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers for it
def test_losses_and_gradients_on_real_weights_are_pefts(stack):
    """And run 2 differs from run 1 in its scale alone, which must be seen."""
    configs, task, adapters = stack
    assert {tuple(layer.shape) for layer in task.layers.values()} == {(576, 576), (192, 576)}  # q has 9 heads, and v 3
    task.to_step(0)
    losses, gradients = task.loss_and_grad(adapters)
    loss, expected = by_peft(configs[1], task, adapters, 1, step=0)
    near(losses[1], loss)
    rejects(near, losses[2], loss)
    names = [(name, part) for name, adapter in adapters.items() for part in adapter.parameters]
    assert len(names) == len(gradients) == 120
    for (name, part), gradient in zip(names, gradients, strict=True):
        near(gradient[1], expected[name][part])
        rejects(near, gradient[2], expected[name][part])


def test_stacked_runs_are_those_trained_alone(stack):
    configs, task, adapters = stack
    task.to_step(1)
    losses, gradients = task.loss_and_grad(adapters)
    for k, config in enumerate(configs):
        alone = copy.copy(task)
        alone.order, alone.rates = Order([config.seed], len(task.training), config.task.batch_size), [0.0]
        alone.rows = alone.order.at(1)
        [loss], own = alone.loss_and_grad({name: adapter.of(slice(k, k + 1)) for name, adapter in adapters.items()})
        near(losses[k], loss)
        rejects(near, losses[k - 1], loss)
        for together, gradient in zip(gradients, own, strict=True):
            near(together[k], gradient[0])


def test_it_has_learned_english_and_random_weights_have_not(stack):
    _, task, _ = stack
    rows = torch.arange(2)
    assert task.per_example(task.held_out, rows)["loss"].mean() < 9
    random = copy.copy(task)
    with torch.random.fork_rng():
        random.model = type(task.model)(task.model.config).eval()
    with torch.no_grad():
        loss = random.per_example(task.held_out, rows)["loss"].mean()
    assert abs(loss - math.log(49152)) < 0.5  # of a uniform guess: 10.8


def test_memory_is_foreseen(stack):
    configs, task, _ = stack
    held = {p.data_ptr(): p.numel() * p.element_size() for p in task.model.parameters()}
    assert TASKS["language_model"].frozen(configs[0]) == sum(held.values()) == 538_060_032


COMMANDS = [words for block in blocks("docs/language-models.md", "sh") for words in commands(block)]
COMMANDS = {words[4]: words[3:] for words in COMMANDS if words[4:] and re.match("task=(smollm2|minilm)", words[4])}


@pytest.mark.parametrize("task", ["task=smollm2", "task=minilm"])
def test_the_documented_commands_train(task, cli, outputs, tmp_path):
    """Scaled down; what they train can be exported, and started from."""
    code, out, err = cli(*COMMANDS[task], *FEW)
    assert code == 0 and "4 finished" in out, err
    runs = list(outputs.glob("runs/*/*"))
    for run in runs:
        steps = pd.read_parquet(run / "steps.parquet")
        assert steps["eval/loss"].notna().all() and steps["eval/loss"].nunique() == 3
        assert steps["eval/loss"][0] < (9 if task == "task=smollm2" else 0.8)
    assert export([str(runs[0]), str(tmp_path / "out")]) == 0
    base = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert (Path(base) / "model.safetensors").is_file()
    first = [word for word in COMMANDS[task][1:] if not re.match("init=|optimizer.lr=", word)]
    config = configure(*first, *FEW, f"adapter.start_from={tmp_path / 'out'}")
    assert run_id(config) not in {run.name for run in runs}

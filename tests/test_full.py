"""Full finetuning in stacks, from checkpoints and within memory; its init, its options, its files, and what is refused."""

import pytest
import torch
from conftest import configure, rejects
from models import CPU, overrides
from safetensors.torch import load_file
from test_checkpoint import MODEL, TOY, Killed, same, trained
from test_train import SMALL, alone_as_in_a_stack

from runner.adapters import Full
from runner.config import ConfigError
from runner.config.registry import ADAPTERS, INITS
from runner.export import export
from runner.inits import Layer
from runner.store.runs import Store
from runner.store.trackers.wandb import describe
from runner.sweeps import memory
from runner.sweeps.plan import cost
from runner.training.optimizers.base import build
from runner.training.stack import stack_key
from runner.training.start import build_adapters
from runner.training.train import build_task, train


@pytest.mark.parametrize("task", ["teacher_student", "feature_regression", "linear", "language_model"])
def test_a_run_alone_is_the_same_run_inside_a_stack(task, tmp_path):
    small = SMALL if task == "teacher_student" else ["dtype=float64"]
    if task == "language_model":
        small = [*overrides(tmp_path, task, "llama", adapter="full"), "log.layers=true"]
    shared = [f"task={task}", *small, "adapter=full", "steps=5", "optimizer.weight_decay=0.1"]
    alone_as_in_a_stack([configure(*shared, f"optimizer.lr={lr}") for lr in (1e-3, 1e-2, 3e-3)])


def test_a_neighbour_that_blows_up_changes_no_bit():
    def others(lr):
        configs = [configure(*SMALL, "adapter=full", "steps=8", f"optimizer.lr={x}") for x in (1e-3, lr, 1e-2)]
        first, middle, last = train(configs)
        return middle.status, first.steps, last.steps

    (calm, *reference), (wild, *found) = others(1e-2), others(1e200)
    assert (calm, wild) == ("finished", "diverged")
    assert all(a.equals(b) for a, b in zip(reference, found, strict=True)) and not found[0].equals(found[1])


@pytest.mark.parametrize("case", [TOY, [*MODEL, "optimizer.clip=0.5"]], ids=["toy", "language model"])
def test_a_killed_stack_ends_with_the_records_of_an_undisturbed_one(case, tmp_path):
    def stack(folder):
        shared = [*case, "adapter=full", "steps=14", "optimizer.schedule=cosine", "log.layers=true"]
        places = f"outputs={tmp_path / folder}", f"bases={tmp_path}/bases"
        return [configure(*shared, *places, f"optimizer.lr={lr}") for lr in (1e-2, 1e-3, 1e30)]

    undisturbed, configs = trained(stack("a")), stack("b")
    with pytest.raises(Killed):
        trained(configs, kill_at=9)
    seen = []
    same(undisturbed, train(configs, lambda step, *_: seen.append(step)))
    assert seen[0] == 9 and [outcome.status for outcome in undisturbed] == ["finished", "finished", "diverged"]
    rejects(same, undisturbed, undisturbed[::-1])


def test_what_a_run_is_said_to_keep_is_what_it_keeps():
    """The weights, their gradients, the optimizer's state and the copy before an update; and no more than twice that."""
    shapes = [(96, 64), (64, 64), (64, 160)]
    config = configure("adapter=full")
    kept = 0
    parameters = [torch.zeros(1, *shape) for shape in shapes]
    state = build([config.optimizer], parameters).state.values()
    for tensors in (parameters, [p.clone() for p in parameters], state, [torch.empty_like(p) for p in parameters]):
        kept += sum(t.numel() for t in tensors)

    def check(numbers):
        assert kept < numbers < 2 * kept

    check(Full.numbers(config, shapes))
    rejects(check, ADAPTERS["lora"].numbers(configure(), shapes))
    rejects(check, 2 * Full.numbers(config, shapes))


def test_a_step_is_said_to_take_longer_than_loras():
    """An input meets n weights for each of its n outputs, of which sixteen count as one."""
    toys = [configure("task.width=512", f"adapter={name}") for name in ("lora", "full")]
    assert cost(toys[1]) / cost(toys[0]) == 1 + 512 / 16


def test_what_cannot_fit_is_blamed_on_the_model_or_its_width(tmp_path, monkeypatch):
    given = overrides(tmp_path, "language_model", "llama", adapter="full")
    wide = ["task=language_model", "task.width=1024", "task.layers=12", "adapter=full"]
    for config, field in (
        (configure(*given, "probe.size=1", "task.batch_size=2"), "task.model="),
        (configure(*wide), "task.width=1024"),
        (configure("adapter=full", "task.width=8192"), "task.width=8192"),
        (configure(*given, "task.batch_size=256"), "task.batch_size=256"),
    ):
        needed = memory.bytes_of_run(config)
        monkeypatch.setattr(memory, "memory", lambda device, needed=needed: needed - 1)
        with pytest.raises(ConfigError, match=rf"^{field}.*: a run takes about"):
            memory.check_fits([[config]])
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.baselines=null leaves it out$"):
        memory.check_fits([[configure("adapter=full", "task.width=8192")]])


def test_seeds_tell_runs_apart_and_share_a_stack_where_they_share_the_base():
    toys = [configure(*SMALL, "adapter=full", f"seed={seed}", "steps=2") for seed in (0, 1)]
    assert stack_key(toys[0]) != stack_key(toys[1])
    losses = [train([config])[0].steps["train/loss"].iloc[0] for config in toys]
    assert losses[0] != losses[1]
    models = [configure("task=language_model", "adapter=full", f"seed={seed}") for seed in (0, 1)]
    assert stack_key(models[0]) == stack_key(models[1])


# Its init, its options, its files -----------------------------------------------------------------


def test_pretrained_is_the_frozen_weight_to_the_bit():
    W0, g = torch.randn(5, 4), torch.Generator().manual_seed(0)
    assert torch.equal(INITS["pretrained"].draw(Layer(W0, 0, 1.0, g)).W, W0)
    assert torch.equal(g.get_state(), torch.Generator().manual_seed(0).get_state())  # nothing was drawn
    for dtype in ("float32", "float64"):
        config = configure(*SMALL, "adapter=full", f"dtype={dtype}")
        task = build_task([config]).to(CPU, getattr(torch, dtype))
        adapter = build_adapters([config] * 2, task, CPU, getattr(torch, dtype))["hidden"]
        assert torch.equal(adapter.parameters["W"], task.W0.to(getattr(torch, dtype)).expand(2, -1, -1))
        assert adapter.parameters["W"].data_ptr() != task.W0.data_ptr()


def test_from_a_weight_of_zero_no_gradient_comes_back():
    """At task=sine, as for LoRA's starts: ReLU'(0) = 0, in torch, too."""
    steps = train([configure("task=sine", "task.width=8", "adapter=full", "steps=3")])[0].steps
    assert not steps["grad/W"].any() and not steps["param/W"].any()


def test_the_rank_is_the_adapters_and_the_tasks():
    """Where none is given: the adapter's own, or on task=linear 1; full finetuning has none."""
    for adapter, rank in (("dora", 4), ("vera", 64)):
        assert configure(f"adapter={adapter}").adapter.rank == rank
        assert configure("task=linear", f"adapter={adapter}").adapter.rank == 1
    given = configure("task=linear", "task.outputs=3", "adapter.rank=2").adapter
    assert (given.rank, given.alpha) == (2, 2.0)
    assert vars(configure("task=linear", "adapter=full").adapter) == {"name": "full"}


def test_weights_are_kept_on_request_alone_and_not_exported(tmp_path):
    given = [*overrides(tmp_path, "language_model", "llama", adapter="full"), f"outputs={tmp_path}", "steps=1"]
    [quiet], [asked] = (train([configure(*given, *more)]) for more in ([], ["log.weights=true"]))
    lora = configure(*overrides(tmp_path, "language_model", "llama"), "steps=1")
    assert quiet.weights is None and train([lora])[0].weights is not None
    config = configure(*given, "log.weights=true")
    with Store(config.outputs) as store:
        store.claim(config)
        run = store.write(config, asked, {})
    kept = load_file(run / "adapter.safetensors")
    assert kept["model.layers.0.self_attn.q_proj.W"].shape == (32, 32) and len(kept) == 14
    with pytest.raises(
        ConfigError, match=r"adapter=full has no counterpart in PEFT; with log\.weights=true its weights are"
    ):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_is_named_without_a_rank():
    words = ["full", "pretrained", "lr=0.01", "n=128", "seed=0"]
    assert describe(configure("adapter=full")) == words


def test_a_sweep_ends_with_figures_that_its_runs_can_fill(cli):
    """Best rates beside LoRA's; and nothing to draw of a single run."""
    tiny = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=3"]
    code, out, err = cli("adapter=full", *tiny)
    assert code == 0 and "full pretrained" in out and "next:" not in out, err
    _, out, _ = cli("-m", "adapter=full", *tiny, "optimizer.lr=1e-3,1e-2,1e-1")
    assert "next:  python -m analysis lr_sensitivity --experiment scratch" in out
    _, out, _ = cli("-m", "adapter=lora,full", *tiny, "optimizer.lr=1e-3,1e-2,1e-1")
    assert "next:  python -m analysis lr_sensitivity variants --experiment scratch" in out
    assert all(sum(name in line.split() for line in out.splitlines()) == 1 for name in ("lora", "full"))

"""A stack that is killed goes on from its checkpoint and ends with the records of an undisturbed one, to the bit."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import configure, rejects
from safetensors import safe_open
from safetensors.torch import save_file
from sweeps import contents, killable

from runner.training.checkpoint import Checkpoint, forget, resumable
from runner.training.measure.layer import columns_of
from runner.training.train import train

TOY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=30", "checkpoint.minutes=0"]
MODEL = (
    "task=language_model task.width=32 task.layers=1 task.pretrain_steps=3 task.sequence_length=16 "
    "task.eval_sequences=4 steps=25 eval.every=5 checkpoint.minutes=0"
).split()


class Killed(Exception):
    pass


def trained(configs, kill_at=None):
    """Outcomes; or what is left when the process dies at a step."""

    def progress(step, losses, *_):
        if step == kill_at:
            raise Killed

    return train(configs, progress)


def same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.status == b.status and a.summary == b.summary and a.steps.equals(b.steps)
        assert (a.layers is None) == (b.layers is None) and (a.layers is None or a.layers.equals(b.layers))


def stack(outputs: Path, *overrides: str):
    shared = [*overrides, f"outputs={outputs}", f"bases={outputs.parent}/bases", "log.layers=true"]
    grid = [("gaussian_A", 1e-2), ("gaussian_B", 1e-3), ("gaussian_A", 1e30)]  # the last one diverges
    return [configure(*shared, f"init={init}", f"optimizer.lr={lr}", "optimizer.schedule=cosine") for init, lr in grid]


CASES = {
    "fused": [*TOY, "engine=fused"],
    "autograd": [*TOY, "engine=autograd", "optimizer=sgd", "optimizer.momentum=0.9"],
    "signsgd": [*TOY, "optimizer=signsgd"],
    "lora_rite": [*TOY, "optimizer=lora_rite"],
    "subspaces": [*TOY, "log.subspaces=true"],
    "sharpness": [*TOY, "sharpness.every=4"],
    "language model": [*MODEL, "optimizer.clip=0.5"],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kill_at", [1, 13])
def test_a_killed_stack_ends_with_the_records_of_an_undisturbed_one(case, kill_at, tmp_path):
    undisturbed = trained(stack(tmp_path / "a", *CASES[case]))
    assert [outcome.status for outcome in undisturbed] == ["finished", "finished", "diverged"]
    configs = stack(tmp_path / "b", *CASES[case])
    with pytest.raises(Killed):
        trained(configs, kill_at)
    seen = []
    resumed = train(configs, lambda step, *_: seen.append(step))
    assert seen[0] == kill_at  # nothing before it is trained again
    same(undisturbed, resumed)
    rejects(same, undisturbed, undisturbed[::-1])


def test_what_a_checkpoint_holds_matters(tmp_path):
    """Negative control: with one tensor of it changed, the resumed run is another."""
    undisturbed = trained(stack(tmp_path / "a", *CASES["fused"]))
    for name in ("parameter1", "optimizer/v0", "optimizer/power1", "log/metrics", "stability/ends"):
        configs = stack(tmp_path / name.replace("/", "-"), *CASES["fused"])
        with pytest.raises(Killed):
            trained(configs, 13)
        checkpoint = Checkpoint(configs, columns_of(configs[0]))
        with safe_open(checkpoint.path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}
        state[name] = state[name] + 1
        checkpoint.save(13, state)
        rejects(same, undisturbed, trained(configs))


def flip(path: Path) -> None:
    """One bit of the last tensor."""
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def empty(path: Path) -> None:
    """All tensors, behind a header that is whole: what a power cut may leave."""
    contents = path.read_bytes()
    header = 8 + int.from_bytes(contents[:8], "little")
    path.write_bytes(contents[:header] + bytes(len(contents) - header))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def metadata(**changes: str) -> Callable[[Path], None]:
    """The same tensors behind other metadata."""

    def change(path: Path) -> None:
        with safe_open(path, "pt") as file:
            tensors, found = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
        save_file(tensors, path, metadata=found | changes)

    return change


STEPS = ["5", "14", "-5", "99999", "x", "1e1", ""]
RUNS = ["[]", "{}", "7", "null", "", "[", '["a"]', "[1, 2, 3]", "[[]]", "[" * 100_000]
FILES = [flip, empty, truncate, lambda p: p.write_bytes(b""), Path.unlink]


@pytest.mark.parametrize("damage", [*FILES, *(metadata(step=s) for s in STEPS), *(metadata(runs=r) for r in RUNS)])
def test_a_damaged_checkpoint_costs_only_time(damage, tmp_path, undamaged):
    """Of tensors or of metadata, which no checksum of tensors would notice."""
    configs = stack(tmp_path / "b", *CASES["fused"])
    with pytest.raises(Killed):
        trained(configs, 13)
    damage(Checkpoint(configs).path)
    assert resumable(configs) in ([], [configs])  # a sweep plans with it, and does not end there
    same(undamaged, trained(configs))


@pytest.mark.parametrize(
    "damage", [empty, Path.unlink, metadata(step="5"), metadata(runs="[1"), metadata(runs='["a"]')]
)
def test_a_damaged_checkpoint_ends_no_command_in_its_folder(damage, cli, outputs):
    """Of a sweep that is to be finished, which names it, and of one that has finished, which has no use for it."""
    configs = stack(outputs, *CASES["fused"])
    with pytest.raises(Killed):
        trained(configs, 13)
    damage(Checkpoint(configs).path)
    sweep = [*CASES["fused"], "log.layers=true", "optimizer.schedule=cosine", "-m", "init=gaussian_A,gaussian_B"]
    code, out, err = cli(*sweep, "optimizer.lr=1e-2,1e-3")
    assert code == 0 and "4 finished" in out and "Traceback" not in err, err
    code, out, err = cli(*sweep, "optimizer.lr=1e-2,1e-3")
    assert code == 0 and "4 skipped" in out and err == ""


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    return trained(stack(tmp_path_factory.mktemp("undamaged") / "a", *CASES["fused"]))


def test_a_checkpoint_of_code_that_measured_otherwise_is_not_used(tmp_path):
    """Rows of two kinds must not stand in one column, nor tensors be filled in part."""
    configs, state = stack(tmp_path, *CASES["fused"]), {"a": torch.ones(2), "b": torch.ones(3)}
    Checkpoint(configs, ["weight/fro"]).save(7, state)
    wider = {"a": torch.zeros(2), "b": torch.zeros(4)}
    assert Checkpoint(configs, ["weight/fro"]).restore({name: t.clone() for name, t in state.items()}) == 7
    assert Checkpoint(configs, ["weight/spectral"]).restore(state) == 0
    assert Checkpoint(configs, ["weight/fro"]).restore(wider) == 0 and not wider["a"].any()


def test_checkpoints_come_at_their_cadence(tmp_path):
    """None where training is shorter than `checkpoint.minutes`."""
    configs = stack(tmp_path / "b", *CASES["fused"], "checkpoint.minutes=5")
    with pytest.raises(Killed):
        trained(configs, 13)
    assert not Checkpoint(configs).path.exists()


def test_the_planner_puts_the_runs_of_a_checkpoint_into_its_stack(tmp_path):
    """In its order, though the sweep names them in another and has more of the kind."""
    configs = stack(tmp_path / "b", *CASES["fused"])
    with pytest.raises(Killed):
        trained(configs, 13)
    more = configure(*CASES["fused"], f"outputs={tmp_path / 'b'}", "log.layers=true", "optimizer.lr=5")
    assert resumable([more, *configs[::-1]]) == [configs]
    assert resumable([more, *configs[1:]]) == []


def test_a_checkpoint_of_runs_that_were_done_otherwise_is_removed(tmp_path):
    configs = stack(tmp_path / "b", *CASES["fused"])
    with pytest.raises(Killed):
        trained(configs, 13)
    path = Checkpoint(configs).path
    forget([configure(*CASES["fused"], f"outputs={tmp_path / 'b'}", "optimizer.lr=7")])
    assert path.exists()
    forget(configs[1:2])
    assert not path.exists()


def test_no_run_is_in_two_stacks_that_are_resumed(tmp_path):
    """Checkpoints of overlapping stacks: one of them is taken up, the other is not."""
    configs = stack(tmp_path / "b", *CASES["fused"])
    for some in (configs, configs[:2]):
        with pytest.raises(Killed):
            trained(some, 13)
    [only] = resumable(configs)
    assert only in (configs, configs[:2])


@pytest.mark.parametrize("failures", [1, 2, 100])
def test_a_stack_that_fails_is_tried_from_its_checkpoint_and_then_run_by_run(failures, cli, outputs, monkeypatch):
    """An error at step 20 of every stack of more than one run (as memory that runs out), so many times."""
    calls = []

    def failing(configs, progress, ahead):
        first = []

        def watch(step, *_):
            if not first:
                first.append(step)
                calls.append((len(configs), step))
            if step == 20 and len(configs) > 1 and sum(runs > 1 for runs, _ in calls) <= failures:
                raise RuntimeError("no memory")

        return train(configs, watch)

    monkeypatch.setattr("runner.sweeps.executors.base.train", failing)
    code, out, err = cli("--multirun", *TOY, "engine=fused", "optimizer.lr=1e-3,1e-2", "workers=1")
    assert code == 0 and "2 finished" in out, err
    expected = [(2, 0), (2, 20)] + [(1, 0), (1, 0)] * (failures > 1)
    assert calls == expected
    assert not list(outputs.glob("runs/scratch/.checkpoints/*"))


def test_kill_9_and_the_same_command_again(tmp_path):
    """The whole path: a process killed in the middle of training, and the command that finishes its work."""
    sweep = ["--multirun", *MODEL, "steps=12", "init=gaussian_A,gaussian_B", f"bases={tmp_path}/bases"]
    with killable(*sweep) as command:
        code, operations = command(tmp_path / "a")
        assert code == 0 and operations > 12  # a checkpoint at every step
        code, _ = command(tmp_path / "b", operations // 2, 0)
        assert code == -signal.SIGKILL
        kept = tmp_path / "b" / "runs" / "scratch" / ".checkpoints"
        [path] = kept.glob("*.safetensors")
        with safe_open(path, "pt") as file:
            assert 0 < int(file.metadata()["step"]) < 12 and len(json.loads(file.metadata()["runs"])) == 2
        code, again = command(tmp_path / "b")
        assert code == 0 and again < operations  # it goes on from there
    assert not list(kept.iterdir())
    assert contents(tmp_path / "a") == contents(tmp_path / "b")

"""engine=compiled: the numbers of autograd's engine, whatever a stack holds and wherever it was interrupted; and training that
goes on where nothing can be compiled, kept or trusted."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import configure, rejects
from models import checkpoint, rows
from test_checkpoint import Killed, same, trained

from runner.config.identity import defining, run_id
from runner.training.compiled import choice, graph, package
from runner.training.measure.sharpness import COLUMNS
from runner.training.train import train

# GPT-2 keeps to float64. Llama takes its norms in float32 whatever it is asked for, and two engines differ by its rounding.
FIELDS = (
    "targets=[c_attn,mlp.c_proj] sequence_length=16 eval_sequences=4 batch_size=4 accumulation=2".split(),
    "steps=8 eval.every=4 checkpoint.minutes=0 dtype=float64 adapter.dropout=0.2 engine=compiled".split(),
)
MODEL = [*(f"task.{field}" for field in FIELDS[0]), *FIELDS[1]]


@pytest.fixture(autouse=True)
def nothing_made():
    """What this process has made before is no matter to a test."""
    choice.forget()


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    """Where the model, its data, and what is compiled for MODEL are kept."""
    folder = tmp_path_factory.mktemp("compiled") / "bases"
    checkpoint(folder / "model", "small gpt2")
    rows(folder / "d.jsonl", 60)
    return folder


def of_model(bases: Path) -> list[str]:
    return [
        "task=language_model",
        f"task.model={bases}/model",
        f"task.dataset={bases}/d.jsonl",
        f"bases={bases}",
        *MODEL,
    ]


def stack(bases: Path, outputs: Path, *overrides: str) -> list:
    """Three runs, the last of which diverges."""
    shared = [*of_model(bases), f"outputs={outputs}", *overrides]
    return [configure(*shared, f"optimizer.lr={lr}", f"seed={seed}") for lr, seed in ((1e-2, 0), (1e-3, 1), (1e300, 0))]


def test_a_compiled_stack_trains_as_autograd_does_and_each_run_as_it_does_alone(bases, tmp_path):
    """In float64, with dropout, accumulation and the sharpness. Runs go one by one on one thread, so alone they have the same
    bits."""
    looks = "sharpness.every=3"
    compiled, by_autograd = (train(stack(bases, tmp_path, f"engine={e}", looks)) for e in ("compiled", "autograd"))
    assert [o.engine for o in compiled] == ["compiled"] * 3 and [o.engine for o in by_autograd] == ["autograd"] * 3
    assert [o.status for o in compiled] == ["finished", "finished", "diverged"]

    def check(ours, theirs):
        for name in ("train/loss", "eval/loss", "grad/A", "grad/B", "param/A", "feature/Z_B", *COLUMNS):
            a, b = (torch.tensor(o.steps[name].to_numpy(float)).nan_to_num() for o in (ours, theirs))
            assert (a - b).abs().max() <= (1e-6 if name in COLUMNS else 1e-10) * b.abs().max(), name

    for ours, theirs in zip(compiled[:2], by_autograd[:2], strict=True):
        check(ours, theirs)
        assert not ours.steps.equals(theirs.steps)  # it is another engine
    rejects(check, compiled[0], by_autograd[1])
    for config, together in zip(stack(bases, tmp_path, looks), compiled, strict=True):
        same([together], train([config]))


def test_a_killed_stack_under_the_compiled_engine_ends_as_an_undisturbed_one(bases, tmp_path):
    undisturbed = trained(stack(bases, tmp_path / "a"))
    with pytest.raises(Killed):
        trained(stack(bases, tmp_path / "b"), kill_at=5)
    seen = []
    resumed = train(stack(bases, tmp_path / "b"), lambda step, *_: seen.append(step))
    assert seen[0] == 5
    same(undisturbed, resumed)


def test_groups_of_runs_cover_a_stack_that_they_do_not_divide(bases, tmp_path, monkeypatch):
    """Three runs, two at a time: of the second group the first run is done already. The graph stands for what is compiled."""
    monkeypatch.setattr(package, "compiled", lambda traced, *_, **__: traced)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    together = train(stack(bases, tmp_path))
    monkeypatch.setattr(choice, "group_size", lambda runs: min(runs, 2))
    choice.forget()
    in_groups = train(stack(bases, tmp_path))
    for a, b in zip(together, in_groups, strict=True):
        assert a.engine == b.engine == "compiled" and a.status == b.status
        assert abs(a.steps["train/loss"] - b.steps["train/loss"]).max() <= 1e-10
        assert abs(a.steps["grad/B"] - b.steps["grad/B"]).max() <= 1e-10 * a.steps["grad/B"].max()


def test_tensors_are_read_as_they_lie_in_memory(bases, tmp_path, monkeypatch, capsys):
    """VeRA's layers read parts of one pair of factors, which are not contiguous. What is compiled reads by the strides that it
    was compiled for, whatever it is given; so does what stands for it here."""

    def by_strides(traced, inputs, *_, **__):
        known = [(t.shape, t.stride()) for t in inputs]
        return lambda *given: traced(*(torch.as_strided(t, *of) for t, of in zip(given, known, strict=True)))

    def contiguous(adapters):
        copies = {
            n: a.each(lambda t, per_run: t.detach().clone() if per_run else t) for n, a in moved(adapters).items()
        }
        for p in (p for copy in copies.values() for p in copy.parameters.values()):
            p.requires_grad_()
        return copies

    monkeypatch.setattr(package, "compiled", by_strides)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    moved, vera = choice._moved, ["adapter=vera", "init=vera_b0", "optimizer.lr=0.01", "adapter.dropout=0"]
    theirs, ours = (train(stack(bases, tmp_path, *vera, f"engine={e}")[:2]) for e in ("autograd", "compiled"))

    def check(ours):
        assert [o.engine for o in ours] == ["compiled"] * 2
        for a, b in zip(ours, theirs, strict=True):
            assert abs(a.steps["train/loss"] - b.steps["train/loss"]).max() <= 1e-10

    check(ours)
    # Negative controls: compared at copies that lie otherwise, it is refused; and were it not, it would be wrong.
    choice.forget()
    monkeypatch.setattr(choice, "_moved", contiguous)
    rejects(check, train(stack(bases, tmp_path, *vera)[:2]))
    assert "lie in memory in another way" in capsys.readouterr().err
    choice.forget()
    monkeypatch.setattr(graph, "layout", lambda tensors: [])
    wrong = train(stack(bases, tmp_path, *vera)[:2])
    assert wrong[0].engine == "compiled"
    rejects(check, wrong)


def test_an_identity_does_not_depend_on_the_engine():
    """But of what an engine is asked for by name that `auto` takes to be another."""
    auto, compiled, autograd = (
        configure("task=language_model", f"engine={e}") for e in ("auto", "compiled", "autograd")
    )
    assert run_id(auto) == run_id(compiled) != run_id(autograd)
    assert list(defining(auto)) == list(defining(compiled)) != list(defining(autograd))  # nor does what it shares


@pytest.fixture
def kept(bases, tmp_path) -> Path:
    """The folder of what is compiled for MODEL, in a place of the test's own."""
    train(stack(bases, tmp_path)[:1])
    own = tmp_path / "bases"
    shutil.copytree(bases, own)
    [folder] = (own / "compiled").glob("[0-9a-f]*")
    return folder


@pytest.fixture
def compiler(kept, monkeypatch) -> list[Path]:
    """Stands for the compiler: it writes what was compiled before. Where it did so."""
    wrote, contents = [], (kept / package.FILE).read_bytes()

    def compile_(program, package_path):
        Path(package_path).write_bytes(contents)
        wrote.append(Path(package_path))
        return package_path

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_)
    return wrote


def test_what_is_kept_is_used_and_what_is_damaged_made_again(kept, compiler, tmp_path, capsys):
    config = stack(kept.parents[1], tmp_path)[0]
    good = train([config])
    assert not compiler
    (kept / package.FILE).write_bytes(b"not what it was")
    choice.forget()
    same(good, train([config]))
    assert len(compiler) == 1 and "made again" in capsys.readouterr().err
    choice.forget()
    same(good, train([config]))
    assert len(compiler) == 1


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(kept, compiler, tmp_path, capsys):
    config = stack(kept.parents[1], tmp_path)[0]
    shutil.rmtree(kept.parent)
    kept.parent.touch()  # a file in the way, which stops root, too
    choice.forget()
    [outcome] = train([config])
    assert outcome.engine == "compiled" and len(compiler) == 1
    assert capsys.readouterr().err.count("cannot be kept") == 1


def test_what_was_compiled_wrong_is_not_used(bases, tmp_path, monkeypatch, capsys):
    """One gradient by one part in a thousand: that of an A, which is zero at the start, where B is."""

    def wrong(traced, *_, **__):
        return lambda *inputs: [1.001 * t if i == 1 else t for i, t in enumerate(traced(*inputs))]

    monkeypatch.setattr(package, "compiled", wrong)
    choice.say_once.cache_clear()
    [outcome] = train(stack(bases, tmp_path / "wrong")[:1])
    assert outcome.engine == "autograd" and "compiled wrong" in capsys.readouterr().err
    choice.forget()
    monkeypatch.setattr(package, "compiled", lambda traced, *_, **__: traced)
    assert train(stack(bases, tmp_path)[:1])[0].engine == "compiled"


def test_auto_compiles_where_the_sweep_is_long_enough(bases, tmp_path, monkeypatch):
    """By how long a first step takes, here a second for each of two parts, what of it can be saved, here half, how much of that
    is, a third or so, and how long the graph takes."""
    config, calls = stack(bases, tmp_path, "engine=auto", "checkpoint.minutes=60")[0], []
    clock = iter(range(10**6))
    monkeypatch.setattr(choice, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(choice, "_is_faster", lambda *_: True)
    monkeypatch.setattr(choice, "products", lambda *_: 0.5)
    nodes = []
    monkeypatch.setattr(package, "compiled", lambda traced, *_, wait: calls.append(wait) or traced)
    monkeypatch.setattr(package, "is_kept", lambda folder: False)
    split = choice.graph.split
    monkeypatch.setattr(choice.graph, "split", lambda *a: nodes.append(split(*a)) or nodes[-1])
    assert train([config], ahead=7)[0].engine == "autograd"
    count = len(nodes[0][1].graph.nodes)
    enough = math.floor(choice.SECONDS_A_NODE * count / (choice.GAIN * 0.5 * 2)) + 1
    assert enough > 8 and train([config], ahead=enough - 1)[0].engine == "autograd"
    assert train([config], ahead=enough)[0].engine == "compiled" and calls == [False]
    assert train([config], ahead=1)[0].engine == "compiled" and calls == [False]  # this process has it
    choice.forget()
    monkeypatch.setattr(package, "is_kept", lambda folder: True)
    assert (
        train([config], ahead=1)[0].engine == "compiled" and calls == [False] * 2
    )  # 0.35 seconds to save, 0.3 to trace
    choice.forget()
    monkeypatch.setattr(choice, "_is_faster", lambda *_: False)
    assert train([config], ahead=enough)[0].engine == "autograd"
    choice.forget()

    def busy(*_, **__):
        raise package.kept.BusyError

    monkeypatch.setattr(package, "compiled", busy)
    assert train([config], ahead=enough)[0].engine == "autograd"
    choice.forget()
    monkeypatch.undo()  # a model of which all but nothing are products
    monkeypatch.setattr(choice, "products", lambda *_: 1e9)
    assert train([config], ahead=10**9)[0].engine == "autograd"


@pytest.mark.parametrize("first", ["autograd", "compiled"])
def test_a_stack_goes_on_with_the_engine_that_began_it(first, bases, tmp_path, monkeypatch):
    """Under `auto`, which would take the other one now."""
    monkeypatch.setattr(package, "compiled", lambda traced, *_, **__: traced)
    monkeypatch.setattr(choice, "_is_faster", lambda *_: True)

    def trained_by(outputs: Path, engine: str, **more):
        monkeypatch.setattr(choice, "GAIN", 1e9 if engine == "compiled" else 0)
        choice.forget()
        return trained(stack(bases, outputs, "engine=auto"), **more)

    undisturbed = trained_by(tmp_path / "a", first)
    with pytest.raises(Killed):
        trained_by(tmp_path / "b", first, kill_at=5)
    resumed = trained_by(tmp_path / "b", {"autograd": "compiled", "compiled": "autograd"}[first])
    assert [o.engine for o in resumed] == [first] * 3
    same(undisturbed, resumed)


@pytest.mark.parametrize("given", ["dtype=float32", "task.base_dtype=bfloat16"])
def test_other_precisions_agree_with_autograd(given, bases, tmp_path, monkeypatch, capsys):
    """Of what is traced, by the comparison that every stack begins with, which a gradient of a layer that is lost fails."""
    monkeypatch.setattr(package, "compiled", lambda traced, *_, **__: traced)
    config = stack(bases, tmp_path, given, "checkpoint.minutes=60")[0]
    assert train([config])[0].engine == "compiled"
    choice.forget()
    monkeypatch.setattr(
        package,
        "compiled",
        lambda traced, *_, **__: (
            lambda *inputs: [torch.zeros_like(t) if i == 1 else t for i, t in enumerate(traced(*inputs))]
        ),
    )
    assert train([config])[0].engine == "autograd"


def test_one_process_compiles_while_others_do_not_wait(tmp_path):
    """The lock is another process's, as fcntl's are."""
    code = (
        "import sys, time; from pathlib import Path; from runner.tasks.models.kept import once\n"
        "once(Path(sys.argv[1]), lambda new: print('at it', flush=True) or time.sleep(60), 'file', wait=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "it")], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"at it\n"
        with pytest.raises(package.kept.BusyError):
            package.kept.once(tmp_path / "it", lambda new: {}, "file", wait=False)
        other.kill()


def test_without_a_compiler_autograd_trains(bases, tmp_path):
    """PATH is empty, and nothing is kept."""
    outputs = tmp_path / "outputs"
    shutil.copytree(bases, tmp_path / "bases", ignore=shutil.ignore_patterns("compiled"))
    command = [sys.executable, "-m", "runner", *of_model(tmp_path / "bases"), "steps=2", f"outputs={outputs}"]
    environment = os.environ | {"PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    environment.pop("CXX", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be compiled") == 1 and "Traceback" not in done.stderr
    [meta] = outputs.glob("runs/*/*/meta.json")
    assert json.loads(meta.read_bytes())["engine"] == "autograd"

"""Whether a step is compiled, and whether what was compiled is used. The traced graph stands for what is compiled of it."""

import math
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from compiled_stacks import make, stack
from conftest import configure, rejects
from test_checkpoint import Killed, same, trained

from runner.config.identity import defining, run_id
from runner.training.compiled import choice, graph, package
from runner.training.train import train

pytestmark = pytest.mark.usefixtures("nothing_compiled")


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("bases"))


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
    with processes.Popen([sys.executable, "-c", code, str(tmp_path / "it")], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"at it\n"
        with pytest.raises(package.kept.BusyError):
            package.kept.once(tmp_path / "it", lambda new: {}, "file", wait=False)
        other.kill()

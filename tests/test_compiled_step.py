"""engine=compiled, by a real compiler: autograd's numbers, whatever a stack holds and wherever it was interrupted; and training
that goes on where nothing can be compiled, kept or trusted."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from compiled_stacks import make, of_model, stack
from conftest import rejects
from test_checkpoint import Killed, same, trained

from runner.training.compiled import choice, package
from runner.training.measure.layer import columns_of
from runner.training.measure.sharpness import COLUMNS
from runner.training.train import train

pytestmark = pytest.mark.usefixtures("nothing_compiled")


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("bases"))


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


def test_the_noise_of_compiled_gradients_is_that_of_autograds_and_changes_nothing_else(bases, tmp_path):
    configs = stack(bases, tmp_path, "log.noise=true")[:2]
    noisy, plain = train(configs), train(stack(bases, tmp_path)[:2])
    assert [o.engine for o in noisy + plain] == ["compiled"] * 4
    for ours, others in zip(noisy, plain, strict=True):
        assert [*ours.steps][3:] == columns_of(configs[0])
        pd.testing.assert_frame_equal(ours.steps[[*others.steps]], others.steps, check_exact=True)

    def check(ours, theirs):
        """To 1e-6: the noise is a difference of sums of squares, which agree to 1e-10."""
        for name in ("noise/A", "noise/B"):
            assert ours.steps[name].notna().any()
            np.testing.assert_allclose(ours.steps[name], theirs.steps[name], rtol=1e-6)

    by_autograd = train(stack(bases, tmp_path, "log.noise=true", "engine=autograd")[:2])
    for ours, theirs in zip(noisy, by_autograd, strict=True):
        check(ours, theirs)
    rejects(check, noisy[0], by_autograd[1])


def test_a_killed_stack_under_the_compiled_engine_ends_as_an_undisturbed_one(bases, tmp_path):
    undisturbed = trained(stack(bases, tmp_path / "a"))
    with pytest.raises(Killed):
        trained(stack(bases, tmp_path / "b"), kill_at=5)
    seen = []
    resumed = train(stack(bases, tmp_path / "b"), lambda step, *_: seen.append(step))
    assert seen[0] == 5
    same(undisturbed, resumed)


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


def test_without_a_compiler_autograd_trains(bases, tmp_path):
    """PATH is empty, and nothing is kept."""
    outputs = tmp_path / "outputs"
    shutil.copytree(bases, tmp_path / "bases", ignore=shutil.ignore_patterns("compiled"))
    command = [sys.executable, "-m", "runner", *of_model(tmp_path / "bases"), "steps=2", f"outputs={outputs}"]
    environment = os.environ | {"PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    environment.pop("CXX", None)
    done = processes.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be compiled") == 1 and "Traceback" not in done.stderr
    [meta] = outputs.glob("runs/*/*/meta.json")
    assert json.loads(meta.read_bytes())["engine"] == "autograd"

"""Training on a GPU: the numbers of the CPU, in a step that is recorded and replayed, which waits for nobody."""

import pytest
import torch
from conftest import configure, rejects
from models import overrides

from runner.config.identity import with_values
from runner.training import recorded
from runner.training import train as loop
from runner.training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
TOY = "task.width=48 task.train_points=40 dtype=float64 steps=25 eval.every=6 log.layers=true".split()
TOYS = {
    "adamw": [],
    "clipped sgd": ["optimizer=sgd", "optimizer.clip=0.01", "optimizer.lr=0.1"],
    "signsgd": ["optimizer=signsgd"],
    "dora": ["adapter=dora", "adapter.norm_gradient=true"],
    "vera": ["adapter=vera"],
    "pissa": ["init=pissa"],
    "full": ["adapter=full"],
    "sine": ["task=sine", "init=gaussian_AB", "init.subtract=false", "init.B_variance=unit", "optimizer.lr=0.01"],
    "feature_regression": ["task=feature_regression"],
    "sharpness": ["sharpness.every=4"],
    "factors as pairs": ["optimizer.riemannian=0.01", "optimizer.shrink=0.01"],
    "subspaces": ["log.subspaces=true"],
    "lora_rite": ["optimizer=lora_rite"],
    "lora_muon": ["optimizer=lora_muon"],
    "every third row": ["log.every=3", "log.directions=true"],
}
LLAMA = "language_model", "llama", "lora"
MODELS = {
    "llama": LLAMA,
    "gpt2": ("language_model", "gpt2", "lora"),
    "roberta": ("classification", "roberta", "lora"),
    "llama, parts": (*LLAMA, "task.accumulation=2", "sharpness.every=5", "log.noise=true"),
    "llama, full": ("language_model", "llama", "full"),
    "llama, dora": ("language_model", "llama", "dora"),
}


def toys(*more: str):
    """Three runs, of which the last diverges."""
    config = configure(*TOY, *more)
    return [with_values(config, {"optimizer.lr": lr}) for lr in (config.optimizer.lr, 1e-4, 1e30)]


def models(folder, task: str = "language_model", kind: str = "llama", adapter: str = "lora", *more: str):
    shared = [*overrides(folder, task, kind, adapter=adapter), "steps=16", "eval.every=5", "log.layers=true", *more]
    return [configure(*shared, f"optimizer.lr={lr}", f"seed={seed}") for lr, seed in ((1e-3, 0), (1e-2, 1), (1e30, 1))]


def on(device: str, configs, **values):
    return train([with_values(c, {"device": device, "engine": "autograd", **values}) for c in configs])


def agree(ours, theirs, tolerance: float):
    for a, b in zip(ours, theirs, strict=True):
        assert a.status == b.status and list(a.steps) == list(b.steps) and len(a.steps) == len(b.steps)
        for table, other in ((a.steps, b.steps), (a.layers, b.layers)):
            numbers = table.drop(columns="layer", errors="ignore").to_numpy(float)
            expected = torch.tensor(other.drop(columns="layer", errors="ignore").to_numpy(float))
            least = 1e-9 * expected.abs().nan_to_num(0, 0, 0).amax(0)
            found = torch.tensor(numbers)
            assert torch.equal(found.isfinite(), expected.isfinite())
            close = (found - expected).abs() <= tolerance * expected.abs() + least
            assert (close | ~expected.isfinite()).all()


@pytest.mark.parametrize("case", TOYS)
def test_toys_have_the_numbers_of_the_cpu(case):
    configs = toys(*TOYS[case])
    ours, theirs = on("cuda", configs)[:2], on("cpu", configs)[:2]
    agree(ours, theirs, 1e-6)
    rejects(agree, ours, theirs[::-1], 1e-6)


@pytest.mark.parametrize("case", MODELS)
def test_models_have_the_numbers_of_the_cpu(case, tmp_path):
    configs = models(tmp_path, *MODELS[case])
    ours, theirs = on("cuda", configs)[:2], on("cpu", configs)[:2]
    agree(ours, theirs, 1e-5)
    rejects(agree, ours, theirs[::-1], 1e-5)


def recorded_kinds(monkeypatch):
    kinds = []

    class Seen(recorded.Recorded):
        def __init__(self, function):
            super().__init__(function)
            kinds.append(self)

    monkeypatch.setattr(loop, "Recorded", Seen)
    return kinds


def test_a_recorded_step_is_the_step(tmp_path, monkeypatch):
    """To the bit in float64; in float32 transformers takes another kernel for attention while a step is recorded. With dropout,
    whose masks are others at each step."""
    configs = models(tmp_path, *LLAMA, "adapter.dropout=0.3")
    kinds = recorded_kinds(monkeypatch)
    ours = on("cuda", configs)
    assert len(kinds[0].graphs) == 2 and kinds[0].can  # steps with evaluations, and without
    ours_rounded = on("cuda", configs[:2], dtype="float32")
    monkeypatch.setattr(loop, "Recorded", lambda step: step)
    theirs, theirs_rounded = on("cuda", configs), on("cuda", configs[:2], dtype="float32")
    for a, b in zip(ours_rounded, theirs_rounded, strict=True):
        difference = a.steps["train/loss"] - b.steps["train/loss"]
        assert difference.abs().max() < 1e-5 * b.steps["train/loss"].iloc[0]
    for a, b in zip(ours, theirs, strict=True):
        assert a.steps.equals(b.steps) and a.summary == b.summary
    assert not ours[0].steps.equals(ours[1].steps)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_loop_waits_for_nobody(tmp_path):
    """torch raises an error where something would."""

    def progress(step, *_):
        torch.cuda.set_sync_debug_mode("error" if 14 <= step < 20 else "default")

    for configs in (toys(), models(tmp_path, *LLAMA, "steps=25", "adapter.dropout=0.3")):
        train([with_values(c, {"device": "cuda"}) for c in configs], progress)

    def reading(step, losses, *_):
        progress(step)
        losses.max().item()

    with pytest.raises(RuntimeError, match="synchroniz"):
        train([with_values(c, {"device": "cuda"}) for c in toys()], reading)
    torch.cuda.set_sync_debug_mode("default")


def test_dropout_is_a_runs_own(tmp_path):
    configs = models(tmp_path, *LLAMA, "adapter.dropout=0.3")[:2]
    together, alone = on("cuda", configs), on("cuda", configs[1:])
    agree(together[1:], alone, 1e-7)
    rejects(agree, together[:1], alone, 1e-7)
    without = on("cuda", [with_values(configs[1], {"adapter.dropout": 0.0})])
    rejects(agree, without, alone, 1e-7)


def test_a_killed_stack_goes_on(tmp_path):
    """To the bit, with the steps that come first after it launched one by one."""

    class Killed(Exception):
        pass

    def die(step, *_):
        if step == 13:
            raise Killed

    for name, configs in (("toy", toys()), ("model", models(tmp_path))):
        undisturbed = on("cuda", configs, outputs=str(tmp_path / "a" / name))
        here = {"device": "cuda", "engine": "autograd", "outputs": str(tmp_path / "b" / name), "checkpoint.minutes": 0}
        interrupted = [with_values(c, here) for c in configs]
        with pytest.raises(Killed):
            train(interrupted, die)
        seen = []
        resumed = train(interrupted, lambda step, *_, seen=seen: seen.append(step))
        assert seen[0] == 13
        for a, b in zip(undisturbed, resumed, strict=True):
            assert a.steps.equals(b.steps) and a.summary == b.summary


def test_a_step_that_cannot_be_recorded_is_launched_kernel_by_kernel(monkeypatch, capsys):
    """Such as one that reads a value off the device."""
    from runner.training.stability import Stability

    update = Stability.update

    def reads(self, step, runs, losses):
        losses.sum().item()
        update(self, step, runs, losses)

    expected = on("cuda", toys())
    monkeypatch.setattr(Stability, "update", reads)
    found = on("cuda", toys())
    assert capsys.readouterr().err.count("a step cannot be recorded") == 1
    for a, b in zip(found, expected, strict=True):
        assert a.steps.equals(b.steps)


def test_tf32_is_asked_for(tmp_path):
    """Products of 10 bits of mantissa are coarser than float32, and not much."""
    configs = [with_values(c, {"dtype": "float32"}) for c in models(tmp_path)][:1]
    exact, [ours], [coarse] = on("cpu", configs), on("cuda", configs), on("cuda", configs, tf32=True)
    first = [abs(run.steps["grad/B"].iloc[0] / exact[0].steps["grad/B"].iloc[0] - 1) for run in (ours, coarse)]
    assert first[0] < 1e-5 < first[1] < 1e-1
    assert torch.get_float32_matmul_precision() == "highest"


def test_memory_is_as_told_beforehand():
    from runner.sweeps.memory import bytes_of_stack

    for width in (1024, 4096):
        large = "dtype=float32", f"task.width={width}", "task.train_points=1000", "task.test_points=1000"
        configs = [with_values(c, {"device": "cuda"}) for c in toys(*large) * 8]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train(configs)  # what a graph has used of its pool is reserved, and not allocated
        # A third and more is between blocks; libraries keep some for themselves.
        assert torch.cuda.max_memory_reserved() < 1.6 * bytes_of_stack(configs) + 2**28

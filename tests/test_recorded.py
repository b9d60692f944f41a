"""What a GPU asks of a step, without one: that it reads no value, stays on its device, and is recorded once for each kind."""

import pytest
import torch
from conftest import rejects
from test_gpu import LLAMA, MODELS, TOYS, models, toys
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner.core.rng import philox
from runner.tasks.finetuning import ModelTask
from runner.tasks.models.hooks import Dropout, DropoutOnDevice
from runner.tasks.toy import ToyTask
from runner.training.measure import compiled
from runner.training.measure.sharpness import Look
from runner.training.recorded import Recorded
from runner.training.stability import Stability
from runner.training.start import build_adapters
from runner.training.step import Step
from runner.training.train import build_task

CPU, META = torch.device("cpu"), torch.device("meta")


def moved(value, seen):
    """The same with its tensors on the meta device, which holds no values, computes with no other, and refuses to be read."""
    if id(value) in seen:
        return seen[id(value)][1]
    new = value
    seen[id(value)] = value, new
    if isinstance(value, nn.Parameter):
        new = nn.Parameter(value.detach().to(META), value.requires_grad)
    elif isinstance(value, Tensor):
        new = value.detach().to(META).requires_grad_(value.requires_grad)
    elif isinstance(value, torch.device):
        new = META
    elif isinstance(value, list | tuple):
        new = type(value)(moved(part, seen) for part in value)
    elif isinstance(value, dict):
        for name, part in value.items():
            value[name] = moved(part, seen)
    elif isinstance(value, nn.Module):
        for module in value.modules():
            for tensors in (module._parameters, module._buffers):
                moved(tensors, seen)
            vars(module).update({k: moved(v, seen) for k, v in vars(module).items() if isinstance(v, Tensor)})
    elif type(value).__module__.startswith("runner."):
        for name, part in vars(value).items():
            object.__setattr__(value, name, moved(part, seen))
    seen[id(value)] = value, new  # the value too, so that its id stays its own
    return new


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Without the kernels; and transformers takes care, as it does while a step is recorded."""
    monkeypatch.setattr(compiled, "has_kernels", lambda device: False)
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: True)


def built(configs, change=lambda step: None) -> Step:
    """Of which everything is elsewhere; after what is changed on the CPU."""
    dtype = getattr(torch, configs[0].dtype)
    task = build_task(configs).to(CPU, dtype)
    step = Step(configs, task, build_adapters(configs, task, CPU, dtype), CPU, dtype)
    step.to(3)
    if isinstance(task, ModelTask):
        task.now, task.keys = step.now, DropoutOnDevice.keys_of(task.order.seeds)
        task.chances = torch.tensor(task.rates)[:, None]
        task.dropout = lambda part: DropoutOnDevice(task.keys, task.chances, task.now, part)
    moved(step, {})
    change(step)
    return step


class StaysThere(TorchDispatchMode):
    """Refuses what is of another device, which operations on the meta device would take."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        for t in tree_leaves((args, kwargs)):
            if isinstance(t, Tensor) and t.dim() and t.device != META:
                raise RuntimeError(f"{operation} of a tensor on {t.device}")
        return operation(*args, **(kwargs or {}))


def runs_anywhere(step: Step) -> None:
    """All that a step does; of toys, each of its kinds, too."""
    toy = isinstance(step.task, ToyTask)
    kinds = ((False, True, False), (False, False, False), (True, True, True)) if toy else ()
    with StaysThere():
        for flags in ((True, True, False), *kinds):
            step(step.task, *flags)
        # a first look is as a later one, and takes longer, which is too much of a model
        for look in (Look.RATE, Look.ALL, *[Look.FIRST] * toy) if step.sharpness else ():
            step(step.task, False, True, False, look)


@pytest.mark.parametrize("case", TOYS)
def test_a_toys_step_reads_nothing_and_stays_on_its_device(case, as_on_a_gpu):
    runs_anywhere(built(toys(*TOYS[case])))


@pytest.mark.parametrize("case", [*MODELS, "dropout"])
def test_a_models_step_reads_nothing_and_stays_on_its_device(case, as_on_a_gpu, tmp_path):
    runs_anywhere(built(models(tmp_path, *MODELS.get(case, (*LLAMA, "adapter.dropout=0.3")))))


def test_what_reads_a_value_or_leaves_the_device_is_seen(as_on_a_gpu, monkeypatch):
    """Negative control."""

    def stays_behind(step):
        step.stability.max_ratio = torch.ones(step.stability.max_ratio.shape)

    def fails(change):
        with pytest.raises((RuntimeError, NotImplementedError)):
            runs_anywhere(built(toys(), change))

    fails(stays_behind)
    monkeypatch.setattr(Stability, "update", lambda self, step, runs, losses: self.ends.add_(int(losses.argmax())))
    fails(lambda step: None)


def test_a_step_is_recorded_when_it_comes_again_and_then_replayed():
    called, recordings, replayed = [], [], []

    def record(function):
        function()
        recordings.append(called.pop())
        return lambda: replayed.append(recordings[-1])

    step = Recorded(lambda *flags: called.append(flags), record)
    for _ in range(4):
        step(True, False)
    assert called == [(True, False)] and recordings == [(True, False)] and replayed == 3 * [(True, False)]
    step(False, False)
    assert called == [(True, False), (False, False)] and len(recordings) == 1


def test_a_step_that_cannot_be_recorded_is_done_as_it_is(capsys):
    """Nor is what of it was recorded before: its memory may be what is missing."""
    called, replayed = [], []

    def record(function):
        if not replayed:
            return lambda: replayed.append(True)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    step = Recorded(lambda *flags: called.append(flags), record)
    for flags in 3 * [(True,), (False,)]:
        step(*flags)
    assert called == [(True,), (False,), (False,), (True,), (False,)] and replayed == [True] and not step.graphs
    [line] = capsys.readouterr().err.splitlines()
    assert "a step cannot be recorded (operation not permitted when stream is capturing)" in line


KNOWN = [  # counter, key, and what the authors' own implementation answers (Random123, kat_vectors)
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (4 * (0xFFFFFFFF,), 2 * (0xFFFFFFFF,), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, expected):
    def answers(key):
        words = philox([torch.tensor([w]) for w in counter], [torch.tensor([w]) for w in key])
        assert tuple(w.item() for w in words) == expected

    answers(key)
    rejects(answers, (key[0] ^ 1, key[1]))


def on_device(seeds, rates, step=2, part=0):
    return DropoutOnDevice(DropoutOnDevice.keys_of(seeds), torch.tensor(rates)[:, None], torch.tensor([step]), part)


def test_masks_drawn_on_a_device_are_a_runs_own():
    """Whatever runs are beside it; others for each seed, step, part and layer; and of the rate that is asked for."""
    x = torch.ones(3 * 4, 50, 30)
    dropout = on_device([0, 1, 0], [0.25, 0.6, 0.25])
    first, second = dropout(x).view(3, -1), dropout(x).view(3, -1)
    assert torch.equal(first[0], first[2]) and torch.equal(on_device([1], [0.6])(x[:4]).view(-1), first[1])
    others = [
        second[0],
        *(on_device([s], [0.25], t, p)(x[:4]).view(-1) for s, t, p in ((1, 2, 0), (0, 3, 0), (0, 2, 1))),
    ]
    count = first[0].numel()
    for other in others:
        both = ((other == 0) & (first[0] == 0)).double().mean()
        assert abs(both - 0.25**2) < 4 * (0.25**2 / count) ** 0.5  # independent
    for k, rate in enumerate((0.25, 0.6)):
        assert abs((first[k] == 0).double().mean() - rate) < 4 * (rate * (1 - rate) / count) ** 0.5
        torch.testing.assert_close(first[k].unique(), torch.tensor([0, 1 / (1 - rate)]))
    ours, theirs = (kind.chances(10**5) for kind in (on_device([0], [0.1]), Dropout([0], [0.1], 2, 0)))
    for chances in (ours, theirs):  # uniform: mean 1/2, variance 1/12
        assert 0 <= chances.min() and chances.max() < 1
        assert abs(chances.mean() - 0.5) < 4 * (1 / 12e5) ** 0.5

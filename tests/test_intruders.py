"""Intruder dimensions, beside whole decompositions and PEFT's own count."""

import re

import peft
import pytest
import torch
import transformers
from conftest import configure, rejects
from folders import configured, stored
from models import DOUBLE
from peft.tuners.lora.intruders import reduce_intruder_dimension

from runner.adapters import LoRA
from runner.adapters.dora import DoRA
from runner.export import main as export
from runner.training.measure.intruders import BELOW, COLUMN, TOP, intruders
from runner.training.start import build_adapters
from runner.training.train import build_task, train

K, RANK = 5, 3
SIZES = torch.tensor([0.1, 1.0, 2.0, 3.0, 30.0], dtype=DOUBLE)  # of the product, beside a W0 of norm 2


def made(n_out, n_in, offset=False):
    g = torch.Generator().manual_seed(n_out)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=DOUBLE)  # noqa: E731
    pair = lambda: (draw(K, RANK, n_in) / n_in**0.5, SIZES[:, None, None] * draw(K, n_out, RANK) / n_out**0.5)  # noqa: E731
    return draw(n_out, n_in) / n_in**0.5, LoRA(
        *pair(), torch.linspace(0.5, 2, K, dtype=DOUBLE), pair() if offset else None
    )


def counted(W, W0, top=TOP, below=BELOW):
    U, U0 = (torch.linalg.svd(of, full_matrices=False)[0] for of in (W, W0))
    return ((U[:, :top].T @ U0).abs().amax(1) < below).sum().item()


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("shape", [(60, 44), (30, 70), (12, 9), (6, 40)], ids=str)
def test_they_are_those_of_whole_decompositions(shape, offset):
    W0, lora = made(*shape, offset)
    found = intruders(lora, W0).tolist()

    def check(scale=1.0, **how):
        for k in range(K):
            product = lora.B[k] @ lora.A[k] - (lora.offset[1][k] @ lora.offset[0][k] if offset else 0)
            assert found[k] == counted(W0 + scale * lora.scale[k] * product.detach(), W0, **how)

    check()
    if min(shape) > TOP:
        assert len({*found}) > 1
        rejects(check, 0.05)
        with pytest.raises(AssertionError):
            check(below=0.2)


def test_rows_that_dora_scales_are_scaled():
    config = configure(
        "adapter=dora", "task.width=48", "task.teacher_width=16", "task.train_points=20", "dtype=float64"
    )
    task = build_task([config])
    task.to(torch.device("cpu"), DOUBLE)
    [(layer, adapter)] = build_adapters([config], task, torch.device("cpu"), DOUBLE).items()
    assert isinstance(adapter, DoRA)
    W0 = task.layers[layer].double()
    with torch.no_grad():
        adapter.parameters["B"].normal_(generator=torch.Generator().manual_seed(0))
        adapter.parameters["m"] *= torch.linspace(0.1, 5, 48, dtype=DOUBLE)
        A, B, m = (p[0] for p in adapter.parameters.values())
    V = W0 + adapter.scale[0] * B @ A
    assert intruders(adapter, W0).tolist() == [counted(m[:, None] * V / V.norm(dim=1, keepdim=True), W0)]
    assert counted(V, W0) != counted(m[:, None] * V / V.norm(dim=1, keepdim=True), W0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_they_are_pefts(shared, tmp_path):
    """Of a run that was trained here and is loaded there; the control is one at another rate."""
    said = []

    def theirs(rate):
        config = configured(shared, "llama", "lora", "log.subspaces=true", "log.layers=true", f"optimizer.lr={rate}")
        run, *_ = stored(config, tmp_path / str(rate))
        assert export([str(run), str(tmp_path / str(rate) / "out")]) == 0
        model = transformers.AutoModelForCausalLM.from_pretrained(config.task.model, dtype=DOUBLE)
        model = peft.PeftModel.from_pretrained(model, tmp_path / str(rate) / "out", autocast_adapter_dtype=False)
        said.clear()
        reduce_intruder_dimension(model, logging_sink=said.append)
        return {
            line.split(":")[0].removeprefix("base_model.model."): int(([*re.findall(r"\d+$", line)] or [0])[-1])
            for line in said[:-1]
        }

    def ours(rate):
        [outcome] = train(
            [configured(shared, "llama", "lora", "log.subspaces=true", "log.layers=true", f"optimizer.lr={rate}")]
        )
        last = outcome.layers[outcome.layers["step"] == outcome.layers["step"].max()]
        assert outcome.steps[COLUMN].iloc[-1] == last[COLUMN].mean() and outcome.steps[COLUMN][:-1].isna().all()
        return dict(zip(last["layer"], last[COLUMN].astype(int), strict=True))

    assert ours(0.05) == theirs(0.05) and sum(ours(0.05).values()) > 0
    assert ours(1e-4) == theirs(1e-4) != ours(0.05)


def test_of_what_diverged_or_has_no_directions_there_are_none():
    small = (
        "task.width=16 task.teacher_width=16 task.train_points=20 steps=12 log.subspaces=true init=gaussian_A".split()
    )
    finished, diverged = train([configure(*small, f"optimizer.lr={lr}") for lr in (0.02, 1e4)])
    assert finished.steps[COLUMN].iloc[-1] >= 0 and diverged.status == "diverged"
    assert diverged.steps[COLUMN].isna().all()
    W0, lora = made(12, 9)
    assert intruders(lora, 0 * W0).isnan().all()

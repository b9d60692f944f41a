"""Inits that PEFT has, against PEFT, on a small Llama in float32: the same products, subspaces and frozen weights, to rounding.

PEFT takes no float64 for most of them. LoftQ is not among them: PEFT's needs bitsandbytes on a GPU.
"""

import math
import warnings

import peft
import pytest
import torch
from conftest import configure, rejects
from models import overrides
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from peft.utils.incremental_pca import IncrementalPCA

from runner.config import Config
from runner.tasks.base import Task
from runner.tasks.models.bases import token_losses
from runner.training.start import draw
from runner.training.train import build_task

CPU = torch.device("cpu")
EXAMPLES = 24


def ours(folder, *more: str) -> tuple[Config, Task]:
    shared = [o for o in overrides(folder, "language_model", "llama") if not o.startswith(("dtype", "adapter"))]
    config = configure(*shared, "adapter.rank=4", "adapter.alpha=8", "task.batch_size=24", *more)
    return config, build_task([config]).to(CPU, torch.float32)


def theirs(config: Config, task: Task, prepare=None, **options) -> dict[str, tuple[torch.Tensor, ...]]:
    """Layer -> (A, B, frozen weight) of PEFT on a model of its own."""
    model = build_task([config]).to(CPU, torch.float32).model
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(task.layers), **options)
    if prepare:
        prepare(model, lora)
    model = peft.inject_adapter_in_model(lora, model)
    modules = dict(model.named_modules())
    layers = {name: modules[name] for name in task.layers}
    return {
        n: (m.lora_A["default"].weight.detach(), m.lora_B["default"].weight.detach(), m.base_layer.weight.detach())
        for n, m in layers.items()
    }


def shown(model, task: Task) -> torch.Tensor:
    """The tokens that our inits show to the frozen model; and in one batch, because PEFT's estimates depend on batches."""
    return task.training.pick(EXAMPLES).tokens.long()


def projector(M):
    """Onto the span of the rows."""
    Q, _ = torch.linalg.qr(M.double().T)
    return Q @ Q.T


def close(a, b, digits):
    """Norms of differences of the size of norms: float32 spectra of well separated singular values."""
    assert a.shape == b.shape and (a - b).norm() <= digits * b.norm()


def compare(config, task, expected, digits=1e-4, product=True, residual=True):
    starts = draw([config], task)
    assert starts.keys() == expected.keys()
    for name, (A, B, W) in expected.items():
        mine = starts[name][0]
        close(projector(mine.A), projector(A), digits)
        if B.any():
            close(projector(mine.B.T), projector(B.T), digits)
            rejects(close, projector(mine.B.T.roll(1, 1)), projector(B.T), digits)
        rejects(close, projector(mine.A.roll(1, 1)), projector(A), digits)
        if product:
            # lora_ga pairs a triplet's right vector with another's left one, whose signs are nobody's choice
            signs = ((mine.A * A).sum(1) * (mine.B * B).sum(0)).sign() if config.init.name == "lora_ga" else 1
            close(mine.B.double() * signs @ mine.A.double(), B.double() @ A.double(), digits)
            rejects(close, mine.B.double() * signs @ mine.A.double(), 1.1 * B.double() @ A.double(), digits)
        if residual:
            frozen = task.layers[name] - 2.0 * mine.B.float() @ mine.A.float()
            close(frozen, W, 1e-4)
            rejects(close, task.layers[name], W, 1e-4)


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_spectral_inits(name, tmp_path):
    config, task = ours(tmp_path, f"init={name}")
    compare(config, task, theirs(config, task, init_lora_weights=name))


def test_mica(tmp_path):
    config, task = ours(tmp_path, "init=mica")
    expected = theirs(config, task, init_lora_weights="mica")
    for name, [start] in draw([config], task).items():
        A, B, W = expected[name]
        assert not A.any() and not start.A.any() and torch.equal(W, task.layers[name])
        close(projector(start.B.T), projector(B.T), 1e-3)  # the smallest singular values are the least well separated
        rejects(close, projector(start.B.T.roll(1, 1)), projector(B.T), 1e-3)
        assert start.frozen == ("B",)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_corda(mode, tmp_path):
    config, task = ours(tmp_path, "init=corda", f"init.mode={mode}", f"init.examples={EXAMPLES}")

    def prepare(model, lora):
        # PEFT calls for batches of one sequence, each scaled by its own largest entry, which C⁻¹ does not undo: so one batch.
        tokens = shown(model, task)
        for module in [m for m in model.modules() if isinstance(m, torch.nn.Linear)]:
            module.register_forward_pre_hook(lambda module, x: (x[0].flatten(0, -2)[None].view_as(x[0]),))
        with flattened():
            preprocess_corda(model, lora, run_model=lambda: model(input_ids=tokens))

    options = {"corda_config": CordaConfig(corda_method=mode), "init_lora_weights": "corda"}
    expected = theirs(config, task, prepare, **options)
    compare(
        config, task, expected, digits=1e-2 if mode == "kpm" else 1e-3, product=mode == "ipm", residual=mode == "ipm"
    )


class flattened:
    """PEFT's hook squeezes a batch of one; with more sequences it fails. Their tokens in one dimension are the same sum."""

    def __enter__(self):
        self.squeeze = torch.Tensor.squeeze
        torch.Tensor.squeeze = lambda x, *dim: (
            x.flatten(0, -2) if dim == (0,) and x.dim() == 3 else self.squeeze(x, *dim)
        )

    def __exit__(self, *_):
        torch.Tensor.squeeze = self.squeeze


def test_eva(tmp_path, monkeypatch):
    """PEFT's incremental SVD is randomized unless it is told to be exact; with one batch it then is the whole one."""
    exact = lambda **options: IncrementalPCA(**(options | {"lowrank": False, "lowrank_seed": None}))  # noqa: E731
    monkeypatch.setattr("peft.tuners.lora.eva.IncrementalPCA", exact)
    config, task = ours(tmp_path, "init=eva", f"init.examples={EXAMPLES}", "init.rho=1")
    model = build_task([config]).to(CPU, torch.float32).model
    tokens = shown(model, task)
    eva = {"init_lora_weights": "eva", "eva_config": peft.EvaConfig(rho=1.0, tau=0.99)}
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(task.layers), **eva)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = peft.get_eva_state_dict(
            model, [{"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}], lora, show_progress_bar=False
        )
    for name, [start] in draw([config], task).items():
        assert not start.B.any()
        close(projector(start.A), projector(state[name]), 1e-3)
        rejects(close, projector(start.A.roll(1, 1)), projector(state[name]), 1e-3)


BACKWARD = pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # PEFT's own hooks


def gradients(task: Task):
    """A training step on what our inits show, for PEFT's estimate."""

    def prepare(model, lora):
        def step():
            tokens = shown(model, task)
            token_losses(model(input_ids=tokens).logits, tokens).mean().backward()

        preprocess_loraga(model, lora, step)

    return prepare


@BACKWARD
def test_lora_ga_by_pefts_rule(tmp_path):
    config, task = ours(tmp_path, "init=lora_ga", f"init.examples={EXAMPLES}", "init.rule=peft")
    options = {"lora_ga_config": peft.LoraGAConfig(), "init_lora_weights": "lora_ga"}
    compare(config, task, theirs(config, task, gradients(task), **options), digits=1e-3, residual=False)


@BACKWARD
def test_lora_ga_by_the_authors_rule(tmp_path):
    """Where PEFT differs: the authors scale both factors by n_out^¼/√γ and leave singular values out. Subspaces are PEFT's."""
    config, task = ours(tmp_path, "init=lora_ga", f"init.examples={EXAMPLES}")
    options = {"lora_ga_config": peft.LoraGAConfig(), "init_lora_weights": "lora_ga"}
    expected = theirs(config, task, gradients(task), **options)
    compare(config, task, expected, digits=1e-3, product=False, residual=False)
    for name, [start] in draw([config], task).items():
        A, B, _ = expected[name]
        rejects(close, start.B.double() @ start.A.double(), B.double() @ A.double(), 0.1)
        size = len(task.layers[name]) ** 0.5 / 16
        for gram in (start.A @ start.A.T, start.B.T @ start.B):
            close(gram.double(), size * torch.eye(4, dtype=torch.float64), 1e-5)


def test_random_inits_have_pefts_variances(tmp_path):
    """True, `gaussian` and `orthogonal`, from the entries of 14 layers: within 5 standard errors of the mean log ratio.

    Entries of `orthogonal` come from half as many normal numbers, whose squares spread more than a uniform's.
    """
    kinds = (("kaiming_A", True, 0.15), ("peft_gaussian", "gaussian", 0.2), ("orthogonal", "orthogonal", 0.3))
    for name, value, tolerance in kinds:
        config, task = ours(tmp_path, f"init={name}")
        torch.manual_seed(0)
        expected, starts = theirs(config, task, init_lora_weights=value), draw([config], task)
        for side in (0, 1) if name == "orthogonal" else (0,):
            ratios = torch.stack([starts[n][0][side].double().var() / expected[n][side].double().var() for n in starts])
            assert ratios.log().mean().abs() < tolerance < (4 * ratios).log().mean().abs()
        for n, (A, B, _) in expected.items():
            assert (B @ A).abs().max() < 1e-5 and (starts[n][0].B @ starts[n][0].A).abs().max() < 1e-5


def test_loftq_differs_from_pefts_where_s_is_not_1():
    """PEFT leaves s out, so that Q + s·B·A is not what approximates W0; ours divides it out."""
    from runner.config.registry import INITS
    from runner.inits import Layer

    W0 = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def error(s, by):
        start = INITS["loftq"].draw(Layer(W0, 4, s, torch.Generator()), iterations=1, block=64)
        return (W0 - start.base - by * start.B @ start.A).norm()

    assert error(1.0, 1.0) == pytest.approx(error(4.0, 4.0).item())
    assert error(1.0, 4.0) > 1.5 * error(4.0, 4.0)  # PEFT's factors, which are those for s = 1, under s = 4
    assert math.isfinite(error(1.0, 1.0))

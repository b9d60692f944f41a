"""Full finetuning is the plain model under torch.optim: the same weights after every step, run by run, in float64."""

import pytest
import torch
import transformers
from conftest import configure, rejects
from models import CPU, DOUBLE, overrides
from test_train import SMALL
from torch.nn.functional import cross_entropy

from runner.config.identity import with_values
from runner.config.registry import OPTIMIZERS
from runner.tasks.models import spec
from runner.training.start import build_adapters
from runner.training.train import build_task, train

LRS, DECAYS = (1e-3, 1e-2, 3e-3), (0.1, 0.0, 0.3)
TRAINED = {
    "adamw": ["optimizer=adamw"],
    "adamw, clipped": ["optimizer=adamw", "optimizer.clip=0.05", "optimizer.schedule=linear", "optimizer.warmup=2"],
    "sgd": ["optimizer=sgd", "optimizer.momentum=0.9"],
    "signsgd": ["optimizer=signsgd"],
}


class SignSGD(torch.optim.Optimizer):
    """w ← (1 - lr·λ) w - lr · sign(g), as its docstring has it."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_((1 - group["lr"] * group["weight_decay"]) * p - group["lr"] * p.grad.sign())


def theirs(options, parameters, lr, decay):
    if options.name == "adamw":
        betas = options.beta1, options.beta2
        return torch.optim.AdamW(parameters, lr, betas, options.eps, decay)
    if options.name == "sgd":
        return torch.optim.SGD(parameters, lr, options.momentum, weight_decay=decay)
    return SignSGD(parameters, {"lr": lr, "weight_decay": decay})


def plain(config, parameters, loss, factor=1.0):
    """The parameters after each step of a plain loop; `factor` of the learning rate."""
    own, steps = config.optimizer, []
    optimizer = theirs(own, parameters, factor * own.lr, own.weight_decay)
    rates = {"linear": lambda t: (t + 1) / 2 if t < 2 else 1 - (t - 2) / (config.steps - 2), "constant": lambda t: 1.0}
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates[own.schedule])
    for step in range(config.steps):
        optimizer.zero_grad()
        loss(step).backward()
        if own.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, own.clip)
        optimizer.step()
        schedule.step()
        steps.append([p.detach().clone() for p in parameters])
    return steps


@pytest.fixture
def updates(monkeypatch):
    """The parameters (K, …) after each update that `train` makes."""
    seen = []

    def recording(step):
        def record(self, gradients, lrs):
            step(self, gradients, lrs)
            seen.append([p.clone() for p in self.parameters])

        return record

    for kind in OPTIMIZERS.values():
        monkeypatch.setattr(kind, "step", recording(kind.step))
    return seen


def in_lockstep(ours, run, reference):
    """To 1e-10 of the largest entry: rounding, which Adam's division magnifies by the ratio of the largest gradient to others."""
    assert len(ours) == len(reference) >= 5
    for stacked, alone in zip(ours, reference, strict=True):
        for p, expected in zip(stacked, alone, strict=True):
            assert (p[run] - expected).abs().max() <= 1e-10 * expected.abs().max()


def stack_of(*shared):
    """Three runs with learning rates and weight decays of their own."""
    own = zip(LRS, DECAYS, strict=True)
    return [configure(*shared, f"optimizer.lr={lr}", f"optimizer.weight_decay={decay}") for lr, decay in own]


def toy_loss(task, W):
    """The loss of a toy as its docstring says, of one weight."""
    batch = task.train
    y = batch.Z @ W.T + (0 if batch.added is None else batch.added)
    if task.readout is not None:
        return (torch.relu(y) @ task.readout - batch.target).square().mean()
    error = (y - batch.target).square()
    return error.sum() / (2 * len(y)) if type(task).__name__ == "Linear" else error.mean()


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*(("teacher_student", optimizer) for optimizer in TRAINED), ("feature_regression", "adamw"), ("linear", "sgd")],
)
def test_toys_train_as_the_plain_network_does(name, optimizer, updates):
    small = SMALL if name == "teacher_student" else ["task.width=20", "dtype=float64"]
    configs = stack_of(f"task={name}", *small, "adapter=full", "steps=6", *TRAINED[optimizer])
    outcomes, ours = train(configs), list(updates)
    for k, config in enumerate(configs):
        task = build_task([config]).to(CPU, DOUBLE)

        def reference(factor, config=config, task=task):
            W = task.W0.double().clone().requires_grad_()
            return plain(config, [W], lambda step: toy_loss(task, W), factor)

        in_lockstep(ours, k, reference(1.0))
        rejects(in_lockstep, ours, k, reference(1.0001))
        rejects(in_lockstep, ours, k - 1, reference(1.0))
        at_start = toy_loss(task, task.W0.double()).item()
        assert outcomes[k].steps["train/loss"].iloc[0] == pytest.approx(at_start, rel=1e-12)


MODELS = [  # layers of several shapes; transposed weights and biases that stay; heads that train beside them
    ("language_model", "llama", "all-linear", "adamw"),
    ("language_model", "gpt2", "[c_attn,mlp.c_proj]", "sgd"),
    ("classification", "roberta", "attention", "adamw, clipped"),
]


@pytest.mark.parametrize(("name", "kind", "targets", "optimizer"), MODELS)
def test_models_train_as_transformers_own_do(name, kind, targets, optimizer, tmp_path, updates):
    shared = [*overrides(tmp_path, name, kind, targets, adapter="full"), "steps=5", *TRAINED[optimizer]]
    own = {"optimizer.weight_decay": 0.1}
    first = configure(*shared)
    configs = [with_values(first, own | {"optimizer.lr": lr, "seed": seed}) for lr, seed in ((1e-3, 0), (1e-2, 1))]
    train(configs)
    ours, task = list(updates), build_task(configs).to(CPU, DOUBLE)
    heads = build_adapters(configs, task, CPU, DOUBLE)
    for k, config in enumerate(configs):
        if name == "language_model":
            model = transformers.AutoModelForCausalLM.from_pretrained(config.task.model, dtype=DOUBLE).eval()
        else:
            its = transformers.AutoModelForSequenceClassification
            model = its.from_pretrained(config.task.model, dtype=DOUBLE, num_labels=3).eval()
        model.requires_grad_(False)
        modules = spec.linear_layers(model)
        parameters = [modules[layer].weight for layer in task.layers]
        for head in task.heads:
            for part, p in zip("Wb", (modules[head].weight, modules[head].bias), strict=True):
                p.data.copy_(heads[head].parameters[part][k])
                parameters.append(p)
        start = [p.clone() for p in parameters]

        def loss(step, k=k, model=model):
            rows = task.order.at(step)[k]
            tokens = task.training.tokens[rows].long()
            if name == "language_model":
                logits = model(input_ids=tokens).logits[:, :-1]
                return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            logits = model(input_ids=tokens, attention_mask=task.training.mask[rows].long()).logits
            return cross_entropy(logits, task.training.labels[rows])

        def reference(factor, config=config, parameters=parameters, start=start, loss=loss):
            for p, at_first in zip(parameters, start, strict=True):
                p.data.copy_(at_first)
                p.requires_grad_()
            steps = plain(config, parameters, loss, factor)
            transposed = kind == "gpt2"
            return [[p.T if transposed else p for p in step] for step in steps]

        in_lockstep(ours, k, reference(1.0))
        rejects(in_lockstep, ours, k, reference(1.0001))
        rejects(in_lockstep, ours, k - 1, reference(1.0))

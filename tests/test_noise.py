"""How much of a gradient is noise, beside each part's own gradients, and in the mean over batches of known noise."""

import pytest
import torch
from conftest import configure, rejects
from models import overrides, stack

from runner.config.identity import run_id, with_values
from runner.training.measure.layer import columns_of
from runner.training.measure.noise import noise
from runner.training.train import train

DOUBLE = torch.float64
PARTS = 4
CASES = [
    ("language_model", "llama", "lora"),
    ("language_model", "llama", "dora"),
    ("language_model", "llama", "full"),
    ("classification", "roberta", "vera"),  # whose head trains, too
]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_it_is_that_of_the_gradients_of_the_parts(case, tmp_path):
    task, kind, adapter = case
    more = [f"task.accumulation={PARTS}", f"task.batch_size={2 * PARTS}", "log.noise=true"]
    _, task, adapters = stack(tmp_path, task, kind, "all-linear", *more, adapter=adapter)
    task.measures_noise = True
    _, whole = task.loss_and_grad(adapters)
    parts = [task.of_part(adapters, task.seen(part), task.dropout(part))[1] for part in range(PARTS)]
    layers = sum(len(adapters[name].parameters) for name in task.layers)
    for i, (squares, g) in enumerate(zip(task.part_squares[:layers], whole, strict=False)):
        each = PARTS * torch.stack([of[i] for of in parts]).flatten(2)  # (m, K, …), the mean over a part's examples
        spread = each.var(0).sum(1) / PARTS  # tr(Σ)/b, by the unbiased variance of m means

        def check(factor=1.0, squares=squares, g=g, spread=spread):
            expected = spread / g.flatten(1).square().sum(1)
            torch.testing.assert_close(noise(squares, g, PARTS), factor * expected, rtol=1e-9, atol=0)

        check()
        rejects(check, 1.001)
    assert len(task.part_squares) == len(whole) >= layers


def test_in_the_mean_it_is_the_noise_there_is():
    """Of examples with gradient G and covariance σ²·I in d directions: σ²·d/b in the square of their mean."""
    draw, runs, d, b, sigma = torch.Generator().manual_seed(0), 4000, 5, 12, 0.7
    G = torch.linspace(0.1, 0.5, d, dtype=DOUBLE)
    examples = G + sigma * torch.randn(runs, b, d, generator=draw, dtype=DOUBLE)
    found = {}
    for parts in (2, 4, 12):
        means = examples.view(runs, parts, b // parts, d).mean(2) / parts  # as a step adds them up
        squares, g = means.square().sum((1, 2)), means.sum(1)
        found[parts] = (noise(squares, g, parts) * g.square().sum(1)).mean()

    def check(value):
        assert value == pytest.approx(sigma**2 * d / b, rel=0.05)  # four standard errors, of two parts

    for value in found.values():
        check(value)
        rejects(check, 2 * value)
    same, none = torch.ones(1, 1, d, dtype=DOUBLE), torch.zeros(1, d, dtype=DOUBLE)
    assert noise(same.square().sum((1, 2)) / 4 * 2, same[0], 2).item() == pytest.approx(0)  # two parts that agree
    assert noise(torch.ones(1), none, 2).isnan().all()


def test_of_runs_it_changes_nothing_else(tmp_path):
    """Compiled ones are with those that are compiled, in `test_compiled_step`."""
    shared = [*overrides(tmp_path, "language_model", "llama"), "steps=6", "task.accumulation=2", "engine=autograd"]
    config = configure(*shared, "log.noise=true", f"bases={tmp_path}")
    [outcome] = train([config])
    assert [*outcome.steps][3:] == columns_of(config)
    share = outcome.steps[["noise/A", "noise/B"]]
    assert (share["noise/B"] > 0).all() and (share["noise/A"][1:] > 0).all()
    [plain] = train([with_values(config, {"log.noise": False})])
    assert plain.steps.equals(outcome.steps[[*plain.steps]])
    assert run_id(configure(*shared)) == run_id(with_values(config, {"log.noise": False})) != run_id(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=teacher_student"], "log.noise=true: task=teacher_student sees all its examples at every step"),
        (["task=language_model"], "task.accumulation=1 makes one of it; set task.accumulation=2 or more"),
    ],
)
def test_what_has_no_parts_is_refused(cli, overrides, message):
    code, _, err = cli(*overrides, "log.noise=true")
    assert code == 2 and message in err

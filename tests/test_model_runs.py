"""Runs of a stack on a transformers model: alone and together, in parts, with dropout, with heads, and their evaluation."""

import pytest
import torch
from conftest import configure, rejects
from models import CPU, DOUBLE, overrides, same, stack, tokenizer
from torch.nn.functional import cross_entropy

from runner.tasks.models import hooks
from runner.training.start import build_adapters
from runner.training.step import lr_ratios
from runner.training.train import build_task, train


@pytest.mark.parametrize(
    ("task", "kind"), [("language_model", "llama"), ("language_model", "gpt2"), ("classification", "roberta")]
)
def test_a_run_alone_is_the_same_run_inside_a_stack(task, kind, tmp_path):
    """Other seeds, inits, rates and alphas beside it; equal up to the order of summation, amplified by ten steps of Adam."""
    shared = [*overrides(tmp_path, task, kind), "steps=10", "eval.every=5", "log.layers=true"]
    variants = [
        ["init=gaussian_A", "seed=0"],
        ["init=gaussian_B", "seed=1", "optimizer.lr=3e-3"],
        ["init=gaussian_A", "seed=1", "adapter.alpha=2", "optimizer.clip=0.1"],
    ]
    configs = [configure(*shared, *more) for more in variants]

    def agree(alone, stacked):
        for a, b in ((alone.steps, stacked.steps), (alone.layers, stacked.layers)):
            numbers = a.select_dtypes("number").columns
            ours, theirs = (torch.tensor(records[numbers].to_numpy()) for records in (a, b))
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10, equal_nan=True)

    together = train(configs)
    for config, outcome in zip(configs, together, strict=True):
        agree(train([config])[0], outcome)
    rejects(agree, together[0], together[1])
    assert together[0].steps["train/loss"].iloc[-1] < together[0].steps["train/loss"].iloc[0]


def test_columns_are_means_over_layers(tmp_path):
    [outcome] = train([configure(*overrides(tmp_path, "language_model", "llama"), "log.layers=true", "steps=3")])
    layers = outcome.layers
    assert layers.groupby("step").size().unique().tolist() == [14] and layers["layer"].nunique() == 14
    for name in ("grad/B", "feature/Z_A", "feature/delta_2", "balance"):
        means = layers.groupby("step")[name].mean()
        torch.testing.assert_close(
            torch.tensor(means.to_numpy()), torch.tensor(outcome.steps[name].to_numpy()), equal_nan=True
        )
        assert layers.loc[layers["step"] == 0, name].nunique() > 1


def test_accumulation_changes_memory_not_numbers(tmp_path):
    _, task, adapters = stack(tmp_path, "language_model", "llama")
    _, halved, _ = stack(tmp_path, "language_model", "llama", "all-linear", "task.accumulation=2")
    for each in (task, halved):
        each.to_step(1)
    (losses, gradients), (other_losses, other_gradients) = (t.loss_and_grad(adapters) for t in (task, halved))
    same(losses, other_losses)
    for a, b in zip(gradients, other_gradients, strict=True):
        same(a, b)
    seen = []
    halved.model.register_forward_hook(lambda module, inputs, output: seen.append(output.logits.shape[0]))
    halved.loss_and_grad(adapters)
    assert seen == [6, 6]  # 3 runs × half of 4 sequences


def test_a_base_in_bfloat16_rounds_and_adapters_stay_exact(tmp_path):
    shared = [*overrides(tmp_path, "language_model", "llama"), "dtype=float32", "steps=5"]
    [exact], [coarse] = (train([configure(*shared, f"task.base_dtype={d}")]) for d in ("float32", "bfloat16"))
    assert exact.steps["param/A"].iloc[0] == coarse.steps["param/A"].iloc[0]
    difference = (exact.steps["train/loss"] - coarse.steps["train/loss"]).abs()
    assert 0 < difference.max() < 0.05  # bfloat16 has 8 bits


def test_accuracy_counts_the_likeliest_labels(tmp_path):
    _, task, adapters = stack(tmp_path, "classification", "roberta")
    evaluations = task.evaluate(adapters)
    for k in range(3):
        alone = {name: adapter.of(slice(k, k + 1)) for name, adapter in adapters.items()}
        with hooks.attached(task.modules, alone):
            logits = task.model(input_ids=task.held_out.tokens.long(), attention_mask=task.held_out.mask.long()).logits
        assert evaluations["eval/accuracy"][k] == (logits.argmax(1) == task.held_out.labels).double().mean()


def test_a_decoder_classifies_the_last_word_of_a_text(tmp_path):
    """Whatever token texts are padded with: as without padding."""
    given = overrides(tmp_path, "classification", "llama")
    words = tokenizer()
    words.pad_token = "<unk>"
    words.save_pretrained(tmp_path / "model")
    task = build_task([configure(*given)]).to(CPU, DOUBLE)
    rows, [length] = torch.arange(4), task.held_out.mask.sum(1).unique().tolist()
    tokens, labels = task.held_out.tokens[rows].long(), task.held_out.labels[rows]
    assert length < tokens.shape[1] and (tokens[:, length:] == words.pad_token_id).all()
    losses = task.per_example(task.held_out, rows)["loss"]

    def check(length):
        same(losses, cross_entropy(task.model(input_ids=tokens[:, :length]).logits, labels, reduction="none"))

    check(length)
    rejects(check, length - 1)


def test_held_out_loss_is_the_mean_over_held_out_tokens(tmp_path):
    """Of each run, by transformers' own forward pass with that run's adapters; 4 sequences in passes of 3."""
    shared = overrides(tmp_path, "language_model", "llama")
    configs = [configure(*shared, "task.batch_size=3", f"adapter.alpha={alpha}") for alpha in (2, 6)]
    task = build_task(configs).to(CPU, DOUBLE)
    adapters = build_adapters(configs, task, CPU, DOUBLE)
    with torch.no_grad():
        for adapter in adapters.values():
            adapter.B += 0.3
    evaluations = task.evaluate(adapters)["eval/loss"]
    assert len(task.held_out) == 4
    for k in range(2):
        with hooks.attached(task.modules, {name: adapter.of(slice(k, k + 1)) for name, adapter in adapters.items()}):
            logs = task.model(input_ids=task.held_out.tokens.long()).logits.log_softmax(-1)
        same(evaluations[k], -logs[:, :-1].gather(2, task.held_out.tokens.long()[:, 1:, None]).mean())
    rejects(same, evaluations[0], evaluations[1])


def test_dropout_drops_what_the_factors_read_while_they_train(tmp_path):
    """At its rate and scaled up; the same masks in any stack, others at another step, seed and pass; none in evaluation."""
    x = torch.ones(3 * 4, 50, 32)
    y = hooks.Dropout([0, 1, 0], [0.25, 0.0, 0.25], step=2, part=0)(x).view(3, -1)
    assert torch.equal(y[0].unique(), torch.tensor([0, 1 / 0.75])) and torch.equal(y[1], torch.ones_like(y[1]))
    assert abs((y[0] == 0).double().mean() - 0.25) < 4 * (0.25 * 0.75 / y[0].numel()) ** 0.5
    assert torch.equal(y[0], y[2])
    for step, part, seed in ((3, 0, 0), (2, 1, 0), (2, 0, 1)):
        other = hooks.Dropout([seed], [0.25], step, part)(x[:4]).flatten()
        assert not torch.equal(other, y[0])
    assert torch.equal(hooks.Dropout([0], [0.25], 2, 0)(x[:4]).flatten(), y[0])
    _, task, adapters = stack(tmp_path, "language_model", "llama")
    _, dropped, _ = stack(tmp_path, "language_model", "llama", "all-linear", "adapter.dropout=0.5")
    assert (task.loss_and_grad(adapters)[0] != dropped.loss_and_grad(adapters)[0]).all()
    assert torch.equal(task.evaluate(adapters)["eval/loss"], dropped.evaluate(adapters)["eval/loss"])


def test_a_run_with_dropout_alone_is_the_same_run_inside_a_stack(tmp_path):
    """Its masks are its own at every step and pass, whatever the rates and seeds beside it; without it, it is another run."""
    shared = [*overrides(tmp_path, "language_model", "llama"), "steps=4", "task.accumulation=2"]
    variants = [("seed=0", "adapter.dropout=0.3"), ("seed=1", "adapter.dropout=0.6"), ("seed=1", "adapter.dropout=0")]
    configs = [configure(*shared, *more) for more in variants]

    def agree(alone, stacked):
        ours, theirs = (torch.tensor(outcome.steps["train/loss"].to_numpy()) for outcome in (alone, stacked))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)

    together = train(configs)
    for config, outcome in zip(configs, together, strict=True):
        agree(train([config])[0], outcome)
    rejects(agree, together[1], together[2])


def test_gradients_pass_through_the_masks(tmp_path):
    """Against a difference quotient of the loss, whose masks are the same at the same step."""
    _, task, adapters = stack(tmp_path, "language_model", "llama", "all-linear", "adapter.dropout=0.5")
    task.to_step(1)
    _, [gradient, *_] = task.loss_and_grad(adapters)
    A = next(iter(adapters.values())).A

    def slope(step):
        losses = []
        task.to_step(step)
        for sign in (1, -1):
            with torch.no_grad():
                A[0] += sign * 1e-3 * gradient[0]
            losses.append(task.loss_and_grad(adapters)[0][0])
            with torch.no_grad():
                A[0] -= sign * 1e-3 * gradient[0]
        return (losses[0] - losses[1]) / 2e-3

    def is_gradient(measured):
        # transformers rounds its norms to float32, so a smaller step would measure rounding
        torch.testing.assert_close(measured, gradient[0].square().sum(), rtol=1e-3, atol=0)

    is_gradient(slope(1))
    rejects(is_gradient, slope(2))


def test_heads_are_drawn_small_from_their_own_stream_and_train_at_the_rate_of_A(tmp_path):
    shared = overrides(tmp_path, "classification", "roberta")
    configs = [configure(*shared, f"init={init}", "optimizer.lr_ratio=8") for init in ("gaussian_A", "gaussian_B")]
    task = build_task(configs).to(CPU, DOUBLE)
    adapters = build_adapters(configs, task, CPU, DOUBLE)
    W, b = adapters["classifier.dense"].parameters.values()
    assert torch.equal(W[0], W[1]) and abs(W[0].std() - 0.02) < 0.002 and not b.any()  # paired, whatever the init draws
    assert not torch.equal(W[0, :1, :4], adapters[next(iter(task.layers))].A[0, :1, :4])
    keys = [(name, part) for name, adapter in adapters.items() for part in adapter.parameters]
    ratios = dict(zip(keys, lr_ratios(configs, adapters), strict=True))
    assert {ratios[key][0].item() for key in ratios if key[1] != "B"} == {1.0}
    assert {ratios[key][0].item() for key in ratios if key[1] == "B"} == {8.0}


def test_inits_see_the_gradient_behind_a_head_that_is_drawn_once(tmp_path):
    """As runs draw theirs, from the base's own stream; whatever head the checkpoint came with."""
    config = configure(*overrides(tmp_path, "classification", "roberta"))
    task = build_task([config]).to(CPU, DOUBLE)
    heads = {name: task.modules[name] for name in task.heads}
    before = [module.weight.clone() for module in heads.values()]
    task.calibrate(4, {"gradient"})
    after = [module.weight.clone() for module in heads.values()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(module.bias.any() for module in heads.values())

    def is_small(weights):
        drawn = torch.cat([weight.flatten() for weight in weights])
        assert abs(drawn.std() / 0.02 - 1) < 5 * (1 / (2 * len(drawn))) ** 0.5 and abs(drawn.mean()) < 0.002

    is_small(after)
    rejects(is_small, before)
    task.calibrate(4, {"gradient"})
    assert all(torch.equal(a, module.weight) for a, module in zip(after, heads.values(), strict=True))


@pytest.mark.parametrize("adapter", ["lora", "dora", "vera", "full"])
def test_runs_that_have_not_trained_are_evaluated_once(adapter, tmp_path):
    """With the results of each alone; a run that has moved, or is not finite, is evaluated itself."""
    configs, task, _ = stack(tmp_path, "language_model", "llama", adapter=adapter)
    adapters = build_adapters(configs, task, CPU, DOUBLE)
    seen = []
    task.model.register_forward_hook(lambda module, inputs, output: seen.append(len(output.logits)))

    def evaluated():
        seen.clear()
        return task.evaluate(adapters)["eval/loss"], sum(seen) // len(task.held_out)

    def check(count):
        losses, runs = evaluated()
        assert runs == count
        for k in range(3):
            alone = task.evaluate({name: a.of(slice(k, k + 1)) for name, a in adapters.items()})["eval/loss"]
            assert torch.equal(losses[k].isfinite(), alone[0].isfinite())
            same(losses[k].nan_to_num(), alone[0].nan_to_num())

    check(1)
    with torch.no_grad():
        last = list(next(iter(adapters.values())).parameters.values())
        last[-1][1] += 0.5
    check(2)
    with torch.no_grad():
        last[0][2] = torch.inf
    check(3)
    with torch.no_grad():
        last[-1][0] += 0.5
    check(3)

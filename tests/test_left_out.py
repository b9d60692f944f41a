"""Runs that have diverged leave the arithmetic of their stack; the others have the bits that they have alone."""

import pytest
from conftest import configure, rejects
from test_checkpoint import Killed, same

from runner.config.identity import with_values
from runner.training import step as steps
from runner.training.fused.step import Fused
from runner.training.train import train

TOY = "task.width=24 task.teacher_width=16 task.train_points=20 steps=45 engine=fused log.layers=true".split()
CASES = {
    "lora_rite": ["optimizer=lora_rite"],
    "lora_muon": ["optimizer=lora_muon"],
    "lora": [],
    "vera": ["adapter=vera"],
    "an offset, and clipped": ["init=pissa", "optimizer.clip=100"],
    "some of A and B does not train": ["init=mica"],
    "sgd": ["optimizer=sgd", "optimizer.momentum=0.9"],
    "sharpness": ["sharpness.every=4"],
    "factors as pairs": ["optimizer.riemannian=0.01", "optimizer.shrink=0.01"],
    "rows": ["log.directions=true", "log.every=3", "eval.every=7"],
}
# Diverge within ten steps, within twenty, …, or not at all; in no order.
SCALES = (1e30, 1, 1e20, 0.1, 1e29, 1e28, 0.3, 1e25)


def stack(*overrides):
    config = configure(*TOY, *overrides)
    return [with_values(config, {"optimizer.lr": 1e-3 * scale}) for scale in SCALES]


@pytest.fixture
def taking_part(monkeypatch):
    """How many runs each step was of."""
    seen, loss_and_grad = [], Fused.loss_and_grad

    def see(self, adapters):
        seen.append(len(adapters["hidden"].parameters["A" if "A" in adapters["hidden"].parameters else "d"]))
        return loss_and_grad(self, adapters)

    monkeypatch.setattr(Fused, "loss_and_grad", see)
    return seen


@pytest.mark.parametrize("case", CASES)
def test_the_others_are_what_they_are_alone(case, taking_part, monkeypatch):
    configs = stack(*CASES[case])
    together = train(configs)
    counts = list(taking_part)
    ended = [outcome.status for outcome in together].count("diverged")
    assert ended >= 4 and counts[:10] == 10 * [8] and counts[-1] == 8 - ended < 8
    same([train([config])[0] for config in configs], together)
    monkeypatch.setattr(steps, "LEFT_OUT", 1)
    kept = train(configs)
    same(kept, together)
    for a, b in zip(kept, together, strict=True):
        assert (a.weights is None) == (b.weights is None) and a.summary == b.summary
    rejects(same, together, together[::-1])


def test_what_was_trained_is_kept_of_the_right_run():
    outcomes = train(stack("log.weights=true"))
    kept = {k: outcome.weights for k, outcome in enumerate(outcomes) if outcome.weights is not None}
    assert kept.keys() == {1, 3, 6}
    for k, weights in kept.items():
        [alone] = train([stack("log.weights=true")[k]])
        assert weights.keys() == alone.weights.keys()
        assert all((weights[name] == alone.weights[name]).all() for name in weights)


def test_fewer_than_an_eighth_stay(taking_part):
    """One of ten; and where all have ended, training does."""
    configs = stack()
    train([with_values(configs[0], {"optimizer.lr": 1e-3 + k / 1e4 if k else 1e27}) for k in range(10)])
    assert set(taking_part) == {10}
    taking_part.clear()
    train([with_values(c, {"optimizer.lr": 1e27}) for c in configs])
    assert len(taking_part) < 20 and set(taking_part) == {8}


@pytest.mark.parametrize("kill_at", [13, 41])
def test_a_stack_goes_on_from_where_some_had_left_it(kill_at, tmp_path, taking_part):
    here = {"outputs": str(tmp_path), "checkpoint.minutes": 0}
    configs = [with_values(c, here) for c in stack("optimizer.schedule=cosine")]

    def die(step, *_):
        if step == kill_at:
            raise Killed

    undisturbed = train([with_values(c, {"outputs": str(tmp_path / "other")}) for c in configs])
    with pytest.raises(Killed):
        train(configs, die)
    assert taking_part[-1] < 8
    taking_part.clear()
    resumed = train(configs)
    assert len(taking_part) == 46 - kill_at
    same(undisturbed, resumed)
    rejects(same, undisturbed, resumed[::-1])


def test_engines_whose_bits_depend_on_the_neighbours_keep_all(monkeypatch):
    asked = []
    monkeypatch.setattr(steps.Step, "leave_out", lambda self: asked.append(self))
    train([with_values(c, {"engine": "autograd"}) for c in stack()])
    assert not asked
    train(stack())
    assert asked

"""The columns of full finetuning against dense formulas, in float64; and the figures that they fill, or cannot."""

import math

import pandas as pd
import pytest
import torch
from conftest import configure, rejects
from models import CPU, DOUBLE
from synthetic import sweep
from synthetic_variants import variants
from test_train import SMALL

from analysis import figures
from analysis.grid import NotShown
from analysis.tables import needs, records
from analysis.verify import config_of
from runner.adapters import Full
from runner.config import ConfigError
from runner.tasks.base import Probe
from runner.training.measure import compiled, weight
from runner.training.measure.frozen import FROZEN
from runner.training.measure.layer import columns_of, meter
from runner.training.measure.weight import STEPS, largest_singular_value
from runner.training.train import build_task, train

RUNS, N_OUT, N_IN, PROBE = 3, 12, 24, 11


def draw(*shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g, dtype=DOUBLE) for shape in shapes]


def by_formula(W0, W, G, new_W, Z):
    """Every column of one run, of explicit matrices."""
    D, dW = W - W0, new_W - W
    singular = torch.linalg.svdvals(D)

    def size(X):
        return (Z @ X.T).square().mean(1).sqrt().mean()

    cosines = torch.nn.functional.cosine_similarity(W, W0, dim=1)
    return {
        "grad/W": G.norm(),
        "param/W": W.norm(),
        "update/W": dW.norm(),
        "feature/Z_B": size(D),
        "feature/dZ_B": size(dW),
        "weight/fro": singular.norm(),
        "weight/spectral": singular[0],
        "weight/stable_rank": (singular.norm() / singular[0]).square(),
        "feature/Z": Z.square().mean(1).sqrt().mean(),
        "feature/Y0": (Z @ W0.T).square().mean(1).sqrt().mean(),
        "change/magnitude": (W.norm(dim=1) - W0.norm(dim=1)).abs().mean(),
        "change/direction": (1 - cosines).mean(),
    }


def measured(W0, W, G, new_W, Z):
    found = meter(Full(W.clone(), W0=W0), Probe(Z, Z @ W0.T), W0)
    out = torch.full((len(found.columns), len(W)), torch.nan, dtype=DOUBLE)
    found.measure([W], [G], [new_W], out)
    return dict(zip(found.columns, out, strict=True))


@pytest.mark.parametrize("at_once", [1, 2**20], ids="{} numbers at once".format)
def test_every_column_is_its_formula(at_once, monkeypatch):
    """And measuring changes neither the weights nor their neighbours; 1e-9, as of the columns of factors."""
    monkeypatch.setattr(weight, "AT_ONCE", at_once)
    W0, Z, D, G, dW = draw((N_OUT, N_IN), (PROBE, N_IN), *[(RUNS, N_OUT, N_IN)] * 3)
    W, new_W = W0 + 0.3 * D, W0 + 0.3 * D + 0.1 * dW
    before = [t.clone() for t in (W0, W, G, new_W)]
    found = measured(W0, W, G, new_W, Z)
    assert all(torch.equal(a, b) for a, b in zip(before, (W0, W, G, new_W), strict=True))
    expected = [by_formula(W0, W[k], G[k], new_W[k], Z) for k in range(RUNS)]

    def check(found):
        assert found.keys() == expected[0].keys()
        for name, values in found.items():
            torch.testing.assert_close(values, torch.stack([run[name] for run in expected]), rtol=1e-9, atol=0)

    check(found)
    for name in found:
        rejects(check, found | {name: found[name] * (1 + 1e-8)})
    rejects(check, measured(W0, W.flip(0), G, new_W, Z))
    broken = W.clone()
    broken[1, 0, 0] = torch.nan
    for name, values in measured(W0, broken, G, new_W, Z).items():
        assert torch.equal(values[[0, 2]], found[name][[0, 2]]) and (
            name in ("grad/W", *FROZEN) or values[1].isnan()
        ), name


def test_a_weight_that_has_not_moved_has_no_stable_rank():
    W0, Z = draw((N_OUT, N_IN), (PROBE, N_IN))
    found = measured(W0, W0[None], W0[None], W0[None], Z)
    assert found["weight/stable_rank"].isnan() and not found["weight/spectral"] and not found["feature/Z_B"]


def falling(n, powers):
    """Singular values k^-p, in random positions; a matrix for each p."""
    U, V = (torch.linalg.qr(x).Q for x in draw((n, n), (n, n)))
    return torch.stack([U * torch.arange(1, n + 1, dtype=DOUBLE) ** -p @ V.T for p in powers])


def from_below(D, tolerance):
    """The largest singular values of D (K, n_out, n_in), of which no more than this share is missing."""
    found = largest_singular_value(D, draw((D.shape[2],), seed=1)[0])
    error = 1 - found / torch.linalg.matrix_norm(D, 2)
    assert ((-1e-12 < error) & (error < tolerance)).all()


@pytest.mark.parametrize("kernels", [True, False])
def test_the_largest_singular_value_has_the_digits_that_are_promised(kernels, monkeypatch):
    monkeypatch.setattr(compiled, "has_kernels", lambda device: kernels)
    [random, low, few] = draw((2, 300, 200), (1, 300, 3), (4, 50, STEPS), seed=2)
    from_below(falling(200, [0.5, 1.0, 2.0]), 1e-6)
    from_below(low @ low.mT + 0.01 * falling(300, [0.0]), 1e-6)  # three directions, and all others alike
    from_below(random, 1e-2)
    rejects(from_below, random, 1e-6)
    from_below(few, 1e-12)
    rejects(from_below, falling(200, [0.0])[:, :, 1:] * torch.linspace(1, 2, 199, dtype=DOUBLE), 1e-6)


@pytest.mark.parametrize("kernels", [True, False])
def test_directions_that_are_rounding_alone_are_none(kernels, monkeypatch):
    """Of a matrix of low rank, or of few different singular values, a few steps leave nothing; what they would leave has no
    right angle to the rest, and counts it twice."""
    monkeypatch.setattr(compiled, "has_kernels", lambda device: kernels)
    [left, right, tall, wide] = draw((1, 50, 1), (1, 1, 40), (20, 50, 3), (20, 3, 40), seed=3)

    def check():
        for D in (left @ right, 1e-8 * left @ right, torch.eye(40, dtype=DOUBLE)[None], left.mT, tall @ wide):
            from_below(D, 1e-12)

    check()
    monkeypatch.setattr(weight, "NOISE", 0.0)
    if kernels:  # which takes away direction after direction, and so leaves right angles even of rounding
        check()
    else:
        rejects(check)


def test_of_a_trained_weight_the_columns_are_those_of_its_change(tmp_path):
    """As they stand in the last row, from the weights that were kept."""
    [outcome] = train([configure(*SMALL, "adapter=full", "steps=12", "log.weights=true", "log.directions=true")])
    task = build_task([configure(*SMALL)])
    W = torch.from_numpy(outcome.weights["hidden.W"])
    expected = by_formula(task.W0.double(), W, W, W, task.to(CPU, DOUBLE).probe(10)["hidden"].Z)
    last = outcome.steps.iloc[-1]
    for name in ("param/W", "feature/Z_B", "weight/fro", "weight/spectral", "change/magnitude", "change/direction"):
        assert last[name] == pytest.approx(expected[name].item(), rel=1e-6), name
    assert last[["update/W", "feature/dZ_B"]].isna().all() and not outcome.steps.iloc[:-1]["update/W"].isna().any()
    absent = ("/A", "/B", "feature/Z_A", "feature/delta_1", "balance")
    assert not [name for name in outcome.steps if name.endswith(absent)]


# In figures ---------------------------------------------------------------------------------------


def of_full(frame: pd.DataFrame) -> pd.DataFrame:
    """The same runs of Init[A] as runs of full finetuning, with its columns alone."""
    known = set(columns_of(configure("adapter=full")))
    measured = [name for name in frame if name.startswith(("grad/", "feature/")) and name not in known]
    one = frame[frame["init.name"] == "gaussian_A"].drop(columns=[*measured, "adapter.rank"], errors="ignore")
    return one.assign(**{"adapter.name": "full", "init.name": "pretrained"}, run_id="full-" + one["run_id"])


@pytest.mark.parametrize("name", ["gradient_norms", "feature_norms", "increments", "headline"])
def test_figures_of_factors_say_that_they_are_loras(name, outputs):
    lora = sweep(seeds=(0,))
    with pytest.raises(NotShown, match=rf"{name} needs .*, which runs of mine do not have; LoRA has it: "):
        with needs.checked(name, {"mine": of_full(lora)}, outputs):
            figures.draw(name, [of_full(lora)])
    with needs.checked(name, {"mine": lora}, outputs):
        figures.draw(name, [lora])


def test_variants_shows_it_beside_the_others():
    frame = variants(seeds=(0,))
    both = pd.concat([frame, of_full(frame[frame["adapter.name"] == "lora"])], ignore_index=True)
    lowest = both["summary.final_loss"].mask(both["adapter.name"] == "full", 1e-6)
    figure = figures.draw("variants", [both])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "full finetuning" and "LoRA, Init[A]" in labels and len(labels) == 9
    assert math.isfinite(figure.axes[0].lines[0].get_xdata()[0])
    found = figures.caption("variants", [both.assign(**{"summary.final_loss": lowest})])
    assert "has full finetuning on feature_regression (loss 1e-06, of 9)" in found


def test_a_record_beside_loras_is_read_and_says_how_each_run_was_configured(cli, outputs):
    """In its table ranks are floats, because full finetuning has none. `config_of` refuses what gives another run's id."""
    tiny = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=3"]
    code, _, err = cli("-m", "experiment=both", "adapter=lora,full", *tiny, "optimizer.lr=1e-3,1e-2")
    assert code == 0, err
    records.refresh(outputs, "both", ("task.name", "adapter.name"))
    found = records.read(outputs, "both").drop_duplicates("run_id")
    configs = [config_of(row, configure(*tiny)) for _, row in found.iterrows()]
    assert sorted(config.adapter.rank for config in configs) == [0, 0, 4, 4]
    with pytest.raises(ConfigError, match="under which the same configuration may have given other numbers"):
        config_of(found.iloc[0].replace(16, 32), configure())


def test_curves_against_the_rate_are_labelled():
    figure = figures.draw("lr_sensitivity", [of_full(sweep(seeds=(0,)))])
    assert "full finetuning" in [text.get_text() for text in figure.legends[0].get_texts()]

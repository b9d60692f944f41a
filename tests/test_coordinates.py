"""The coordinate check against exponents that are known: recovered, judged, and missed where something is wrong on purpose."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import rejects
from synthetic_coordinates import INCREMENT, INNER, LAYERS, POWERS, layers, runs

from analysis import coordinates
from analysis.claims import UNKNOWN
from analysis.coordinates import FROZEN, GROWS, RULES, STABLE, VANISHES, by_kind, kinds, rates, slopes, verdict
from analysis.scaling import Estimate
from runner.training.measure.frozen import size

INITS, KINDS = ("gaussian_A", "gaussian_B"), ("q_proj", "up_proj")


def checked(**options):
    """The grid of a synthetic check."""
    return coordinates.grid(by_kind(layers(**options)), runs(**options))


# Exponents -----------------------------------------------------------------------------------------


def expected(init: str, power: float, powers=None) -> float:
    a, b = (powers or POWERS)[init[-1]]
    return a * power + b


def recovers(grid, powers=None, within=1e-9):
    """Every exponent of every kind, along both rules."""
    for init in INITS:
        for power in RULES:
            found = slopes(grid, init, power)
            for kind, of_frozen in zip(
                KINDS, (0.125, 0.5), strict=True
            ):  # the mean over q_proj's two layers, of 0 and 0.25
                known = {"feature/Z_B": expected(init, power, powers), "feature/Z_A": power, FROZEN: of_frozen}
                known["feature/dZ_B"] = known["feature/Z_B"]
                for name, exponent in known.items():
                    assert found[name, kind].value == pytest.approx(exponent, abs=within), (init, power, name, kind)


def test_exponents_are_recovered():
    """Without noise to rounding; theirs is what is relative to W0·Z, whose own exponents differ from kind to kind."""
    grid = checked(noise=0.0)
    recovers(grid)
    recovers(checked(noise=0.0, powers={"A": (1.5, -0.25), "B": (0.0, 0.7)}), {"A": (1.5, -0.25), "B": (0.0, 0.7)})
    rejects(recovers, checked(noise=0.0, powers={"A": (2.0, 1.01), "B": (1.0, 1.0)}))


def holds(grid, powers=None):
    """The truth lies in every interval."""
    for init in INITS:
        for power in RULES:
            found, truth = slopes(grid, init, power), expected(init, power, powers)
            for kind in KINDS:
                slope = found["feature/Z_B", kind]
                assert slope.low <= truth <= slope.high and 0 < slope.high - slope.low < 1


def test_intervals_hold_the_truth_of_noisy_sizes():
    holds(checked(noise=0.1, seeds=range(6)))
    rejects(holds, checked(noise=0.1, seeds=range(6)), {"A": (2.0, 1.5), "B": (1.0, 1.5)})


BROKEN = {
    "without the frozen layer's size": lambda patch: patch.setattr(
        coordinates, "SIZES", dict.fromkeys(coordinates.SIZES, coordinates.INPUT)
    ),
    "against the width, not its log": lambda patch: patch.setattr(
        coordinates, "exponent", lambda widths, logs: np.polyfit(widths / widths[0], logs, 1)[0]
    ),
    "at one rate for all widths": lambda patch: patch.setattr(
        coordinates, "rates", lambda g, init, power, of=rates: of(g, init, 0.0)
    ),
    "of the first step": lambda patch: patch.setattr(
        pd.core.groupby.DataFrameGroupBy, "last", pd.core.groupby.DataFrameGroupBy.first
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_exponents_are_not_the_known_ones(broken, monkeypatch):
    """The last control shows that a mistake which changes no exponent is seen in the sizes."""
    sized(checked(noise=0.0))
    BROKEN[broken](monkeypatch)
    if broken == "of the first step":
        rejects(sized, checked(noise=0.0))
    else:
        rejects(lambda: recovers(checked(noise=0.0)))


def sized(grid):
    """Sizes at the last step: of the geometric mean over the two layers of a kind, and of increments that of the last update."""
    at = grid.inits.index("gaussian_B"), 1, 5
    lr, n = grid.lrs[5], grid.widths[1] / 128
    of_q = np.sqrt(1.0 * 0.5) * 100 * lr * n
    assert grid.columns["feature/Z_B", "q_proj"][at] == pytest.approx(of_q)
    assert grid.columns["feature/dZ_B", "q_proj"][at] == pytest.approx(INCREMENT * of_q)
    assert grid.columns["feature/Z_A", "up_proj"][at] == pytest.approx(INNER * lr)


def test_sizes_of_activations_have_the_exponents_that_these_were_drawn_with():
    """From vectors on: W0·Z of size n^0.3, s·B·A·Z of size c·n^0.8 at any rate, by the function that measures runs."""
    g, parts = torch.Generator().manual_seed(0), []
    draw = lambda n: torch.randn(16, n, generator=g, dtype=torch.float64)  # noqa: E731
    frame = runs(widths=(32, 64, 128, 256), lrs=tuple(2.0**-k for k in range(1, 6)))
    for _, of_run in frame.groupby("run_id"):
        n, first = int(of_run["task.width"].iloc[0]), of_run.iloc[:2].copy()
        sizes = {
            "feature/Y0": size(n**0.3 * draw(n)),
            "feature/Z_B": size(0.1 * n**0.8 * draw(n)),
            "feature/Z": size(draw(n)),
        }
        sizes |= {"feature/Z_A": size(draw(4)), "feature/dZ_B": sizes["feature/Z_B"] / 2}
        parts.append(first.assign(layer="q_proj", **{name: value.item() for name, value in sizes.items()}))

    def check(exponent):
        grid = coordinates.grid(by_kind(pd.concat(parts)), frame)
        slope = slopes(grid, "gaussian_A", -0.5)["feature/Z_B", "q_proj"]
        assert slope.low <= exponent <= slope.high and slope.high - slope.low < 0.1 and verdict(slope) == GROWS

    check(0.5)
    rejects(check, 0.8)
    rejects(check, 0.0)


# Rules ---------------------------------------------------------------------------------------------


def test_rates_start_in_the_middle_of_those_from_which_both_rules_stay_on_the_grid():
    """Widths span a factor of 8: of rates 2^-14 … 2^-1, starts are 2^-11 … 2^-1."""
    grid = checked(noise=0.0)
    assert np.log2(np.exp(rates(grid, "gaussian_A", -1.0))) == pytest.approx([-6, -7, -8, -9])
    assert np.log2(np.exp(rates(grid, "gaussian_A", -0.5))) == pytest.approx([-6, -6.5, -7, -7.5])
    grid.log_loss[0, 2, 11:, 3] = np.inf  # one run of Init[A] diverges at 2^-3, and above
    grid = replace(grid)
    assert np.log2(np.exp(rates(grid, "gaussian_A", 0.0))) == pytest.approx([-8] * 4)  # of 2^-11 … 2^-4
    assert np.log2(np.exp(rates(grid, "gaussian_B", 0.0))) == pytest.approx([-6] * 4)
    grid.log_loss[0, :, 3:] = np.nan  # three rates are left, which span a factor of 4
    grid = replace(grid)
    assert np.isnan(rates(grid, "gaussian_A", -0.5)).all()
    assert {verdict(slope) for slope in slopes(grid, "gaussian_A", -0.5).values()} == {UNKNOWN}


def test_between_rates_of_the_grid_log_sizes_are_linear_in_log_lr():
    """Every second rate is enough for powers of the rate; a size that is no power is read off the line."""
    every, second = (checked(noise=0.0, lrs=tuple(2.0**-k for k in range(1, 15, step))) for step in (1, 2))
    recovers(every)
    recovers(second)
    second.columns["feature/Z_B", "q_proj"][0, 1] *= 4.0 ** (second.lrs > 0.1)[:, None]
    recovers(second)
    second.columns["feature/Z_B", "q_proj"][0, 1] *= 4.0 ** (np.arange(len(second.lrs)) % 2)[:, None]
    rejects(recovers, second)


def test_a_width_that_lacks_a_run_takes_no_part():
    grid = checked(noise=0.0)
    for values in grid.columns.values():
        values[0, 1, :, 2] = np.nan
    recovers(grid)  # of three widths
    for values in grid.columns.values():
        values[0, 2, :, 4] = np.nan
    assert {verdict(slope) for slope in slopes(grid, "gaussian_A", -0.5).values()} == {UNKNOWN}


# Verdicts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-0.2, 0.2, STABLE),
        (0.0, 0.3, STABLE),
        (-0.49, 0.49, STABLE),
        (0.01, 0.05, STABLE),  # within what is negligible
        (-0.05, -0.01, STABLE),
        (0.01, 0.06, GROWS),
        (0.4, 0.6, GROWS),
        (-0.06, -0.01, VANISHES),
        (-1.2, -0.9, VANISHES),
        (-0.2, 0.5, UNKNOWN),  # as well 1/2 as 0
        (-0.5, 0.1, UNKNOWN),
        (-2.0, 2.0, UNKNOWN),
        (np.nan, np.nan, UNKNOWN),
    ],
)
def test_a_verdict_follows_from_the_interval(low, high, word):
    assert verdict(Estimate((low + high) / 2, low, high)) == word


def words(**options) -> dict:
    grid = checked(**options)
    return {(i, p): {verdict(slopes(grid, i, p)["feature/Z_B", kind]) for kind in KINDS} for i in INITS for p in RULES}


def test_each_init_is_stable_along_its_own_rule():
    A, B, (half, one) = *INITS, RULES
    assert words() == {(A, half): {STABLE}, (A, one): {VANISHES}, (B, half): {GROWS}, (B, one): {STABLE}}


def test_a_wrong_parametrization_is_flagged():
    """An init whose variance does not fall with width: its sizes are n^1/2 larger than they should; and one whose rate counts for
    nothing, so that no rule for it helps."""
    A, B, (half, one) = *INITS, RULES
    too_large = words(powers={"A": (2.0, 1.5), "B": (1.0, 1.5)})
    assert too_large == {(A, half): {GROWS}, (A, one): {VANISHES}, (B, half): {GROWS}, (B, one): {GROWS}}
    assert set.union(*words(powers={"A": (0.0, 0.5), "B": (0.0, -0.5)}).values()) == {GROWS, VANISHES}


@pytest.mark.parametrize("options", [{"widths": (128, 256)}, {"seeds": range(4)}], ids=str)
def test_few_widths_or_seeds_give_no_verdict(options):
    assert set.union(*words(**options).values()) == {UNKNOWN}


# Layers --------------------------------------------------------------------------------------------


def test_layers_of_one_kind_differ_by_their_block_alone():
    """Names are as short as tells kinds apart."""
    assert list(kinds(list(LAYERS)).values()) == ["q_proj", "up_proj"] * 2
    of_gpt2 = [
        f"transformer.h.{i}.{name}" for i in (0, 1) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert list(kinds(of_gpt2).values()) == ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"] * 2
    of_roberta = [
        f"encoder.layer.3.{name}" for name in ("attention.output.dense", "intermediate.dense", "output.dense")
    ]
    assert list(kinds(of_roberta).values()) == ["attention.output.dense", "intermediate.dense", "layer.output.dense"]
    assert kinds(["hidden"]) == {"hidden": "hidden"} and list(kinds(["a.b", "b"]).values()) == ["a.b", "b"]


def test_a_kind_has_a_size_where_all_of_its_layers_do():
    frame = layers(noise=0.0, widths=(128,), seeds=(0,), lrs=(0.5,))
    table = by_kind(frame).set_index(["init.name", "kind", "step"])["feature/Z_B"].unstack()
    assert table[0].isna().all() and table[[1, 10, 19, 20]].notna().all(axis=None)  # zero at the start
    frame.loc[(frame["layer"] == "model.layers.1.mlp.up_proj") & (frame["step"] == 10), "feature/Z_B"] = 0.0
    table = by_kind(frame).set_index(["init.name", "kind", "step"])["feature/Z_B"].unstack()
    assert table[10].isna().tolist() == [False, True] * 2

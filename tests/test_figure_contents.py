"""What is drawn is what is in the records, figure by figure."""

import numpy as np
import pytest
from conftest import rejects
from synthetic import LRS, START, WIDTHS, first_steps, layers, sweep
from synthetic_variants import BEST_RATIO, directions, ranks, ratios, variants, zoo

from analysis import figures, style, theory
from analysis.grid import Grid, NotShown
from runner.config.registry import INITS


def texts(figure):
    return [t.get_text() for axes in figure.axes if axes.get_legend() for t in axes.get_legend().get_texts()]


def test_lr_vs_width_draws_the_best_rates_and_both_slopes():
    figure = figures.draw("lr_vs_width", [sweep(noise=0.0)])
    axes, loss = figure.axes
    drawn = [line.get_ydata() for line in axes.lines]
    is_drawn(loss, np.exp(-5) * 1.5 * (np.array(WIDTHS) / 128) ** 0.5, rtol=0.02)  # the grid's rate, not the vertex
    expected = 0.05 * (np.array(WIDTHS) / 128) ** -0.5
    assert any(len(y) == 4 and np.allclose(y, expected) for y in drawn)
    assert any("n^{-0.50}" in text for text in texts(figure)) and any(
        "theory, Init[B]: $n^{-1}$" in text for text in texts(figure)
    )


def lines(axes):
    return [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]


def is_drawn(axes, expected, rtol=1e-6):
    assert any(len(y) == len(expected) and np.allclose(y, expected, rtol=rtol) for y in lines(axes)), lines(axes)


def test_headline_draws_losses_best_rates_and_inner_feature():
    frame = sweep(noise=0.0)
    figure = figures.draw("headline", [frame])
    x = np.array(WIDTHS) / 128
    loss, rate, inner = figure.axes
    is_drawn(rate, 0.04 / x)  # Init[B]
    is_drawn(inner, x**0.5)  # Init[A]: Z_A at the end, where it is ∝ n^1/2
    grid = Grid.of(frame)
    finite = grid.log_loss[grid.at("gaussian_B", 1024)]
    is_drawn(loss, np.exp(finite[np.isfinite(finite).all(1)].mean(1)))
    marks = {line.get_xdata()[0] for line in loss.lines if len(line.get_xdata()) == 1}
    assert any(np.isclose(x, grid.best("gaussian_B", 1024).lr) for x in marks)
    rejects(is_drawn, inner, x)
    rejects(is_drawn, rate, 0.05 / x)
    assert [axes.get_title() for axes in figure.axes] == [
        "Init[A] ends 4.3 times lower,\nat a higher rate",
        "Best rate falls with width,\nfaster for Init[B]",
        "Price: $Z_A$ grows under Init[A]",
    ]


def test_width_exponents_marks_predictions_and_measurements():
    figure = figures.draw("width_exponents", [sweep(noise=0.0)])
    for side, axes in zip("AB", figure.axes[:2], strict=True):
        [marks] = [c for c in axes.collections if c.get_label() == "theory"]
        predicted = [segment[0, 0] for segment in marks.get_segments()]
        assert predicted == [
            theory.exponent("feature_regression", f"gaussian_{side}", name) for name in theory.QUANTITIES
        ]
        tuned = np.asarray(axes.lines[0].get_xdata(), dtype=float)
        # Z_A is shown at step 10, where its synthetic exponent is 0.7 larger than at the end
        assert np.allclose(tuned, np.array(predicted) + 0.7 * (np.array(theory.QUANTITIES) == "feature/Z_A"), atol=1e-6)
    x = np.array(WIDTHS) / 128
    ratio, loss, inner = figure.axes[2:]
    is_drawn(ratio, 1 / x)  # Init[B]: δ2/δ1 ∝ n^-1 at step 10
    is_drawn(loss, np.exp(-5) * 1.5 * x**0.5, rtol=0.02)
    is_drawn(inner, x**0.5)  # Init[A], at the end
    rejects(is_drawn, inner, x**1.2)


def test_first_step_draws_zeros_as_zeros():
    figure = figures.draw("first_step", [first_steps()])
    for axes, (a, b) in zip(figure.axes, ((0, 1), (1, 0), (0, 0)), strict=True):
        assert [y.tolist() for y in lines(axes)] == [[a], [b]]


def test_a_rate_at_the_edge_is_drawn_hollow_and_named():
    figure = figures.draw("lr_vs_width", [sweep(lrs=tuple(lr for lr in LRS if lr <= 0.04))])
    assert any("at the grid's edge" in text for text in texts(figure))
    assert not any("edge" in text for text in texts(figures.draw("lr_vs_width", [sweep()])))


def test_diverged_runs_stand_at_the_top():
    frame = sweep(noise=0.0)
    figure = figures.draw("lr_sensitivity", [frame])
    panel = figure.axes[0]
    marks = next(line for line in panel.lines if line.get_label() == "Init[A], broken down")
    narrow = (frame["task.width"] == 128) & (frame["init.name"] == "gaussian_A") & (frame["status"] == "diverged")
    assert set(marks.get_xdata()) == set(frame.loc[narrow, "optimizer.lr"])
    assert set(marks.get_ydata()) == {1.0}  # in axes coordinates
    assert figure.get_suptitle() == "feature_regression, n = 128…1024, 5 seeds, bands: range over seeds"
    assert "some seeds diverged" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert [axes.get_title() for axes in figure.axes] == [f"$n = {width}$" for width in WIDTHS]


def test_the_inits_of_the_curves_have_looks_of_their_own_and_every_init_has_one():
    looks = [(look.color, look.marker, look.line) for look in style.INITS.values()]
    for column in zip(*looks, strict=True):
        assert len(set(map(str, column))) == len(looks)
    assert all(style.look(init).label for init in (*INITS, "of mine")) and style.look("of mine") == style.look(
        "of mine"
    )


def test_edge_of_stability_draws_the_sharpness_over_the_optimizers_bound():
    """Of a sharpness of 1/lr: 1/38 of what AdamW with β1 = 0.9 bears, half of what gradient descent does."""
    frame = sweep(noise=0.0).assign(**{"optimizer.beta1": 0.9})

    def drawn(frame):
        [first, *_] = figures.draw("edge_of_stability", [frame]).axes
        return [y for y in lines(first) if len(y) == 4]

    assert np.allclose(drawn(frame), 1 / 38)
    assert np.allclose(drawn(frame.assign(**{"optimizer.name": "sgd", "optimizer.momentum": 0.5})), 1 / 3)
    assert np.allclose(drawn(frame.assign(**{"optimizer.name": "signsgd"})), 1 / 2)
    assert not drawn(frame.assign(**{"optimizer.schedule": "cosine"}))  # at no step is the rate what it is called


def test_lm_lr_sensitivity_draws_held_out_losses_beside_the_frozen_models():
    frame = sweep(task="language_model", widths=(64, 128))
    figure = figures.draw("lm_lr_sensitivity", [frame])
    for panel, width in zip(figure.axes, (64, 128), strict=True):
        runs = frame[(frame["task.width"] == width) & (frame["step"] == 0)]
        expected = runs[runs["init.name"] == "gaussian_A"].groupby("optimizer.lr")["summary.final_eval_loss"]
        drawn = lines(panel)
        assert any(
            len(y) == len(LRS) and np.allclose(y, np.exp(expected.apply(lambda x: np.log(x).mean()))) for y in drawn
        )
        assert any(np.allclose(y, START) for y in drawn)
        # the panel ends just above the frozen model; what ends higher is a triangle at the top edge
        assert START < panel.get_ylim()[1] < 1.2 * START and max(map(max, drawn)) == pytest.approx(2 * START)
        marks = next(line for line in panel.lines if line.get_label() == "Init[B], broken down")
        of_B = runs[runs["init.name"] == "gaussian_B"].groupby("optimizer.lr")["summary.final_eval_loss"].mean()
        assert set(marks.get_xdata()) == set(of_B.index[of_B > START]) and (marks.get_ydata() > 0.9).all()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "ends above the frozen model, or some seeds diverged" in labels


def test_lm_layers_shows_every_layer_at_every_step_of_the_widest_model():
    frame = layers()
    figure = figures.draw("lm_layers", [frame, sweep(task="language_model")])
    images = [axes.collections[0].get_array() for axes in figure.axes if axes.get_title()]
    assert [axes.get_xlabel() for axes in figure.axes[4:]] == [r"size of $Z_A$", r"$\delta_2/\delta_1$"]  # colour bars
    assert [image.shape for image in images] == [(3, 5), (3, 4)] * 2  # the last step makes no increment
    of_A = frame[(frame["task.width"] == max(WIDTHS)) & (frame["init.name"] == "gaussian_A") & (frame["step"] == 10)]
    of_A = of_A.groupby("layer", sort=False)
    expected = of_A["feature/Z_A"].apply(lambda x: np.exp(np.log(x).mean()))
    assert np.allclose(np.asarray(images[0])[:, 2], expected)
    ratio = np.asarray(images[1])[:, 2]
    assert np.allclose(ratio / ratio[0], [1, 2, 3])
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["0 q_proj", "0 up_proj", "1 up_proj"] and figure.axes[0].yaxis_inverted()


def test_the_zoo_is_sorted_by_loss_and_marks_the_band_of_good_rates():
    frame = zoo(noise=0.0, tasks=("teacher_student",))
    figure = figures.draw("init_zoo", [frame])
    loss, rate, *_ = figure.axes
    assert [t.get_text() for t in loss.get_yticklabels()] == ["pissa", "gaussian_A", "kaiming_A", "eva"]
    grid = Grid.of(frame)
    drawn = [line.get_xdata()[0] for line in loss.lines if len(line.get_xdata()) == 1]
    assert np.allclose(sorted(drawn)[0], np.exp(grid.best("pissa", 128).log_loss))
    bars = [line.get_xdata() for line in rate.lines if len(line.get_xdata()) == 2]
    # log loss is 0.1·(log lr - best)², and between rates of the grid a line: from 2 rates beside the best on, above 1.5 times it
    for low, high in bars:
        assert np.log(high / low) == pytest.approx(2 * np.sqrt(np.log(1.5) / 0.1), rel=0.15)
        assert np.log(high / low) != pytest.approx(2 * np.sqrt(np.log(1.2) / 0.1), rel=0.15)


def test_lora_plus_stars_the_best_pair_of_rates():
    frame = ratios(noise=0.0)
    figure = figures.draw("lora_plus", [frame])
    panel = figure.axes[0]
    [star] = [line for line in panel.lines if line.get_marker() == "*"]
    runs = frame[(frame["init.name"] == "gaussian_A") & (frame["status"] == "finished")]
    best = runs.loc[runs["summary.final_loss"].idxmin()]
    assert star.get_xdata()[0] == best["optimizer.lr"]
    assert star.get_ydata()[0] == best["optimizer.lr"] * best["optimizer.lr_ratio"]
    assert f"best ratio {BEST_RATIO['A']:.3g}" in panel.get_title()


def test_rank_transfer_draws_a_panel_a_scale_with_its_prediction():
    figure = figures.draw("rank_transfer", [ranks(noise=0.0)])
    found = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in figure.axes]
    for labels, power in zip(found, ("-0.5", "-0.25", "0"), strict=True):
        assert labels[0].endswith(f"; $r^{{{power}}}$")
    assert found[0][0].startswith("$r^{-0.50}$")


def test_variants_draws_the_rates_that_break_and_what_trains():
    frame = variants(noise=0.0, edge={"A": 1e9, "B": 4.0})
    figure = figures.draw("variants", [frame])
    loss, rate, edge, count = figure.axes[:4]
    rows = [t.get_text() for t in loss.get_yticklabels()]
    assert rows[:2] == ["LoRA, Init[A]", "LoRA, Init[B]"] and rows[-2:] == ["VeRA, b = 0", "VeRA, d = 0"]
    dot = lambda panel, row: next(line for line in panel.lines if line.get_ydata()[0] == row)  # noqa: E731
    part = frame[(frame["task.name"] == "feature_regression") & (frame["adapter.name"] == "lora")]
    grid = Grid.of(part)
    assert dot(rate, 1).get_xdata()[0] == pytest.approx(grid.best("gaussian_B", 128).lr)
    breaks = part[(part["init.name"] == "gaussian_B") & (part["status"] == "diverged")]["optimizer.lr"].min()
    assert dot(edge, 1).get_xdata()[0] == pytest.approx(breaks) and dot(edge, 1).get_fillstyle() == "full"
    # 1/2 breaks none.
    assert dot(edge, 0).get_xdata()[0] == pytest.approx(1.0) and dot(edge, 0).get_fillstyle() == "none"
    assert dot(count, 0).get_xdata()[0] == pytest.approx(2 * 128 * 4)
    assert dot(count, 7).get_xdata()[0] == pytest.approx(128 + 4)


def test_variants_draws_any_init():
    frame = variants(noise=0.0)
    frame["init.name"] = frame["init.name"].replace({"gaussian_B": "pissa"})
    figure = figures.draw("variants", [frame])
    rows = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert "LoRA, pissa" in rows and "another start" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_dora_directions_draws_a_point_a_layer_and_quarter():
    frame = directions()
    figure = figures.draw("dora_directions", [frame])
    for panel, adapter in zip(figure.axes, ("lora", "dora"), strict=False):
        drawn = {(x, y) for line in panel.lines for x, y in zip(*line.get_data(), strict=True)}
        part = frame[(frame["adapter.name"] == adapter) & (frame["init.name"] == "gaussian_A")]
        ends = part[part["step"].isin((1, 10, 20))]  # step 10 stands for the third quarter, too
        assert drawn == set(zip(ends["change/direction"], ends["change/magnitude"], strict=True))
        r = ends[ends["seed"] == 0][["change/direction", "change/magnitude"]].corr().iloc[0, 1]  # all seeds are alike
        assert f"correlation {r:.2f}" in panel.get_title()


def test_one_scale_of_colours_for_both_inits_on_a_task():
    figure = figures.draw("lora_plus", [ratios(noise=0.0)])
    norms = {
        (mesh.norm.vmin, mesh.norm.vmax)
        for axes in figure.axes[:2]
        for mesh in axes.collections
        if mesh.get_array() is not None
    }
    assert len(norms) == 1


@pytest.mark.parametrize("name", ["lm_lr_sensitivity", "lm_dynamics"])
def test_figures_of_language_models_refuse_toys(name):
    figures.draw(name, [sweep(task="language_model")])
    with pytest.raises(NotShown, match="runs of teacher_student are compared by the loss that they minimize"):
        figures.draw(name, [sweep(task="teacher_student")])

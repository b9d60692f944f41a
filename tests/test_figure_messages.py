"""Titles and captions say what is true of the records, whichever these are, and colours mean the same everywhere."""

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
import synthetic_coordinates
from conftest import rejects
from matplotlib.lines import Line2D
from synthetic import LRS, first_steps, layers, sweep
from synthetic_variants import directions, ratios, variants, zoo

from analysis import figures, style
from analysis.figures import _message, _sensitivity, lora_plus
from analysis.grid import Grid
from analysis.scaling import Estimate, best_lrs

COMPARED = ("headline", "lr_sensitivity")


def swapped(frame):
    """With the runs of either init under the other's name."""
    return frame.assign(
        **{"init.name": frame["init.name"].map({"gaussian_A": "gaussian_B", "gaussian_B": "gaussian_A"})}
    )


def alike(frame):
    """With the losses of Init[A] under both, changed by seed, in either direction."""
    part = frame[frame["init.name"] == "gaussian_A"]
    change = np.exp(0.3 * (part["seed"] - 2))
    columns = {"init.name": "gaussian_B", "run_id": "copy-" + part["run_id"]}
    copy = part.assign(**columns, **{"summary.final_loss": part["summary.final_loss"] * change})
    return pd.concat([part, copy], ignore_index=True)


def first(name, frame):
    return figures.caption(name, [frame]).splitlines()[0]


@pytest.mark.parametrize("name", COMPARED)
def test_the_first_sentence_names_the_init_that_ends_lower(name):
    frame = sweep()

    def names(frame, winner, loser):
        assert f"{winner} ends lower than {loser}" in first(name, frame)

    names(frame, "Init[A]", "Init[B]")
    names(swapped(frame), "Init[B]", "Init[A]")
    rejects(names, swapped(frame), "Init[A]", "Init[B]")


def test_the_first_sentence_holds_the_numbers():
    frame = sweep(noise=0.0)
    grid = Grid.of(frame)
    A, B = (grid.best(init, 1024) for init in grid.inits)
    sentence = first("headline", frame)
    assert f"loss of {np.exp(A.log_loss):.3g} at learning rate {A.lr:.2g}" in sentence
    assert f"against {np.exp(B.log_loss):.3g} at {B.lr:.2g}" in sentence
    assert f"a factor of {np.exp(B.log_loss - A.log_loss):.2g} [" in sentence
    second = figures.caption("headline", [frame]).splitlines()[1]
    assert "Init[A] falls from 0.05 at n = 128" in second and "n^-0.50 [" in second and "n^-1.00 [" in second


def test_language_models_are_compared_in_nats():
    sentence = first("lm_lr_sensitivity", sweep(task="language_model", noise=0.0))
    grid = Grid.of(sweep(task="language_model", noise=0.0))
    A, B = (np.exp(grid.best(init, 1024).log_loss) for init in grid.inits)
    assert f"held-out loss of {A:.3g}" in sentence and f"{B - A:.2g} [" in sentence and "nats lower" in sentence


@pytest.mark.parametrize("name", COMPARED)
def test_what_the_seeds_do_not_decide_is_said(name):
    assert "the seeds do not decide whether" in first(name, alike(sweep()))
    assert figures.draw("headline", [alike(sweep())]).axes[0].get_title().startswith("Seeds do not decide")
    assert "ends lower in the mean" in figures.draw("headline", [sweep(seeds=(0,))]).axes[0].get_title()
    assert "it is open which init ends lower" in first(name, sweep(lrs=tuple(lr for lr in LRS if lr <= 0.01)))


def test_titles_of_trends_follow_the_records():
    def titles(**changes):
        frame = sweep({tuple(key.split("_", 1)): value for key, value in changes.items()}, noise=0.01)
        return [axes.get_title() for axes in figures.draw("headline", [frame]).axes[1:]]

    assert titles()[0] == "Best rate falls with width,\nfaster for Init[B]"
    assert titles(A_lr=-1.0, B_lr=-0.5)[0] == "Best rate falls with width,\nfaster for Init[A]"
    assert titles(A_lr=0.5)[0] == "Best rate grows under Init[A],\nfalls under Init[B]"
    assert titles(A_lr=0.5, B_lr=1.0)[0] == "Best rate grows with width,\nfaster for Init[B]"


def test_few_widths_give_no_exponent():
    two = figures.caption("headline", [sweep(widths=(128, 512))]).splitlines()[1]
    assert "Init[A] falls from 0.05 at n = 128" in two and "n^" not in two
    one = figures.caption("headline", [sweep(widths=(128,))]).splitlines()[1]
    assert "single width, n = 128" in one
    for widths in ((128, 512), (128,)):
        rates = figures.draw("headline", [sweep(widths=widths)]).axes[1]
        assert all("no fit" in text.get_text() for text in rates.get_legend().get_texts())


def test_a_trend_is_told_only_where_its_interval_tells():
    grid = Grid.of(sweep())
    assert _message.trend(grid, "gaussian_A", best_lrs).direction == -1
    assert _message.trend(Grid.of(sweep(seeds=(0, 1))), "gaussian_A", best_lrs).direction == 0
    flat = _message.trend(Grid.of(sweep({("A", "lr"): 0.0}, noise=0.2)), "gaussian_A", best_lrs)
    assert flat.direction == 0 and " goes from " in flat.phrase("it")


def test_best_rates_stand_with_their_intervals_and_hollow_at_the_edge():
    frame = sweep(noise=0.2)
    grid = Grid.of(frame)
    panel = figures.draw("lr_sensitivity", [frame]).axes[0]
    best = next(line for line in panel.lines if line.get_marker() == "s" and len(line.get_xdata()) == 1)
    assert best.get_xdata()[0] == pytest.approx(grid.best("gaussian_B", 128).lr)
    rate = _sensitivity.best_rates(grid)["gaussian_B", 128]
    ends = [
        segment[:, 0] for bars in panel.collections if hasattr(bars, "get_segments") for segment in bars.get_segments()
    ]
    assert any(np.allclose(x, np.exp([rate.low, rate.high])) for x in ends) and rate.low < rate.value < rate.high
    edge = figures.draw("lr_sensitivity", [sweep(lrs=tuple(lr for lr in LRS if lr <= 0.01))])
    labels = [text.get_text() for text in edge.legends[0].get_texts()]
    assert _sensitivity.EDGE in labels
    assert _sensitivity.EDGE not in [
        text.get_text() for text in figures.draw("lr_sensitivity", [frame]).legends[0].get_texts()
    ]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((121.0, 0.25, 127.0), lora_plus.UNDETERMINED),  # the lowest ratio tried is a bound, and 1 lies within
        ((432.0, 41.0, 4096.0), "best ratio above 41"),
        ((0.5, 0.25, 0.7), "best ratio below 0.7"),
        ((34.0, 12.0, 118.0), "best ratio 34 [12, 120]"),
        ((2.0, 0.25, 4096.0), lora_plus.UNDETERMINED),
        ((2.0, np.nan, np.nan), lora_plus.UNDETERMINED),
        ((np.nan, np.nan, np.nan), lora_plus.UNDETERMINED),
    ],
)
def test_a_ratio_is_told_as_far_as_its_interval_tells(bounds, said):
    grid = Grid([], 4.0 ** np.arange(-1, 7), np.ones(1), np.arange(5), np.zeros((0, 8, 1, 5)), {})
    assert lora_plus.told(Estimate(*np.log(bounds)), grid) == said


def test_an_undetermined_ratio_is_explained_in_the_caption():
    caption = figures.caption("lora_plus", [ratios(best={"A": 1e-3, "B": 32.0})])
    assert (
        f"{lora_plus.UNDETERMINED} on teacher_student with Init[A]" in caption and "reaches the lowest ratio" in caption
    )
    assert "best ratio 32 [" in caption


def colors(axes):
    """Of every line, mark, band and image edge of a panel."""
    drawn = []
    for line in axes.findobj(Line2D):
        drawn += [line.get_color(), line.get_markerfacecolor(), line.get_markeredgecolor()]
    found = {matplotlib.colors.to_hex(color) for color in drawn if not isinstance(color, str) or color != "none"}
    for collection in axes.collections:
        edges = [*collection.get_facecolor(), *collection.get_edgecolor()] if collection.get_array() is None else []
        found |= {matplotlib.colors.to_hex(color) for color in edges}
    return found


OF_INITS = {look.color.lower() for init, look in style.INITS.items() if init != "zero"}


def not_of_inits(panels):
    found = set.union(*map(colors, panels))
    assert len(found) > 1 and not found & OF_INITS


def test_only_inits_have_the_colours_of_inits():
    frame = sweep(task="language_model")
    increments = figures.draw("increments", [sweep()]).axes
    not_of_inits(figures.draw("first_step", [first_steps()]).axes)
    not_of_inits(increments[:-1])
    not_of_inits(figures.draw("init_zoo", [zoo()]).axes)
    not_of_inits(figures.draw("dora_directions", [directions()]).axes)
    not_of_inits(figures.draw("lora_plus", [ratios()]).axes)
    not_of_inits(figures.draw("lm_layers", [layers(), frame]).axes)
    not_of_inits(figures.draw("coordinate_check", [synthetic_coordinates.layers(), synthetic_coordinates.runs()]).axes)
    rejects(not_of_inits, increments)  # the last panel is of inits
    rejects(not_of_inits, figures.draw("variants", [variants()]).axes)  # whose sides are the inits' families


def lightness(color):
    """CIE L*, what greyscale leaves of a colour."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(luminance) - 16


def distinct(looks):
    levels = np.sort([lightness(look.color) for look in looks])
    assert (np.diff(levels) > 12).all()
    assert len({look.marker for look in looks}) == len(looks)


ROLES = {"factors": style.FACTORS, "increments": style.INCREMENTS, "kinds": style.KINDS, "sides": style.SIDES}
ROLES |= {"coordinates": style.COORDINATES}


@pytest.mark.parametrize("role", ROLES)
def test_looks_of_a_role_are_distinct_in_greyscale_and_no_inits(role):
    looks = list(ROLES[role].values())
    if role != "sides":
        distinct(looks)
        assert not {look.color.lower() for look in looks} & OF_INITS
    assert len({look.marker for look in looks}) == len(looks)
    distinct(style.QUARTERS)
    distinct([style.INITS["gaussian_A"], style.INITS["gaussian_B"]])
    # Green and rose of one lightness.
    alike = [style.Look("", "#009E73", "o", "-"), style.Look("", "#CC79A7", "s", "-")]
    rejects(distinct, alike)

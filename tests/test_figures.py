"""Every figure from synthetic records of many kinds, how they look, and the command line around them."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from conftest import rejects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from synthetic import first_steps, layers, sweep
from synthetic_variants import MADE, named, zoo

from analysis import figures, style
from analysis.__main__ import main
from analysis.tables.load import load
from analysis.tables.records import record_path

ROOT = Path(__file__).resolve().parent.parent


DEAD = {"edge": {"A": 1e-9, "B": 1e-9}}  # every run diverges
OPTIONS = [{}, {"widths": (128,)}, {"seeds": (0,)}, {"lrs": (0.03125,)}, {"edge": {"A": 1e-9}}, DEAD]
SMALL = {"widths": (256,), "seeds": (0,)}


def frames(name, **options):
    made = {
        "first_step": lambda: first_steps(),
        "lm_lr_sensitivity": lambda: sweep(task="language_model", **options),
        "lm_lr_sensitivity.layers": lambda: layers(**options),
        **{source: partial(make, **options) for source, make in MADE.items()},
    }
    return [made.get(source, lambda: sweep(**options))() for source in figures.sources(name)]


# Every figure of records without a gap and of runs that all diverged, and of one of the other kinds, which take turns.
DRAWN = [
    (name, o)
    for i, name in enumerate(figures.NAMES)
    for k, o in enumerate(OPTIONS)
    if o in ({}, DEAD) or (i + k) % 4 == 0
]


@pytest.mark.parametrize(("name", "options"), DRAWN, ids=str)
def test_it_draws_whatever_records_it_is_given(name, options):
    legible(figures.draw(name, frames(name, **options)))


@pytest.mark.parametrize("count", [1, 2, 20])
def test_few_rows_are_as_legible_as_many(count):
    shifts = {f"init_{i}": (0.05 * i, 0.0) for i in range(count)}
    legible(figures.draw("init_zoo", [zoo(shifts=shifts, seeds=(0, 1))]))


def many(frame, count):
    """Runs of so many inits: those of the first, under other names."""
    part = frame[frame["init.name"] == "gaussian_A"]
    return pd.concat([named(part, f"{i}", **{"init.name": f"an_init_{i}"}) for i in range(count)], ignore_index=True)


# Of all inits: `magnitude` is of what controls change, and `rotation` of four. Many are harder than one.
OF_ANY = [name for name in figures.NAMES if name not in ("magnitude", "rotation")]
MANY = [(name, 20) for name in OF_ANY] + [(name, 1) for name in OF_ANY[::4]]


@pytest.mark.parametrize(("name", "count"), MANY)
def test_few_inits_are_as_legible_as_many(name, count):
    made = [many(frame, count) if "init.name" in frame else frame for frame in frames(name, seeds=(0, 1))]
    figure = figures.draw(name, made)
    legible(figure)
    heights = [axes.bbox.height for axes in figure.axes if axes.lines]  # not of maps, nor of colour bars
    assert min(heights, default=figure.dpi) > 0.7 * figure.dpi  # inches: legends have not squeezed the panels


def test_what_is_not_legible_is_found():
    def drawn():
        return figures.draw("gradient_norms", frames("gradient_norms"))

    legible(drawn())
    for spoil in (
        lambda panel: panel.legend(loc="upper right"),  # over the curves
        lambda panel: panel.set_title("n = nan"),
        lambda panel: panel.set_title("a long title " * 20),
        lambda panel: panel.figure.text(0.3, 0.93, "over another panel's title", va="top"),
    ):
        figure = drawn()
        spoil(figure.axes[0])
        rejects(legible, figure)


def test_many_widths_are_as_legible_as_few():
    frame = sweep(widths=tuple(2**k for k in range(7, 14)), seeds=(0, 1))
    for name in ("lr_sensitivity", "headline", "lr_vs_width"):
        legible(figures.draw(name, [frame]))
    legible(figures.draw("headline", [sweep(widths=(128, 512), task="language_model")]))


def legible(figure):
    """No text leaves the canvas or tells of a number that is none, and no legend or title covers another, or a panel."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # all but the pixels, which take a quarter more
    canvas = figure.bbox
    numbers = [text for text in figure.findobj(Text) if re.search(r"\b(nan|inf)\b", text.get_text())]
    assert not numbers, numbers
    boxes = []
    for axes in figure.axes:
        if (place := axes.get_subplotspec()) is not None:  # a legend that is too wide squeezes its panel
            assert axes.bbox.width > 0.4 * canvas.width / place.get_gridspec().ncols, f"{axes} is squeezed"
        items = [axes.title, axes.xaxis.label, axes.yaxis.label, *([axes.get_legend()] if axes.get_legend() else [])]
        for item in items:
            box = item.get_window_extent()
            if box.width > 1:
                assert canvas.x0 - 1 <= box.x0 and box.x1 <= canvas.x1 + 1, f"{item} leaves the figure"
                assert canvas.y0 - 1 <= box.y0 and box.y1 <= canvas.y1 + 1, f"{item} leaves the figure"
                boxes.append((item, box.shrunk(0.98, 0.98)))
    panels = [axes.bbox.shrunk(0.98, 0.98) for axes in figure.axes]
    below = [legend for part in figure.subfigs for legend in part.legends]
    for legend in (*figure.legends, *below, *(axes.get_legend() for axes in figure.axes if axes.get_legend())):
        assert not any(legend.get_window_extent().overlaps(panel) for panel in panels), f"{legend} covers data"
    for item in (*figure.legends, *figure.texts, *below):
        box = item.get_window_extent()
        assert canvas.x0 - 1 <= box.x0 and box.x1 <= canvas.x1 + 1, f"{item} leaves the figure"
        boxes.append((item, box.shrunk(0.98, 0.98)))
    for i, (item, box) in enumerate(boxes):
        for other, its in boxes[:i]:
            assert not box.overlaps(its), f"{item} covers {other}"


@pytest.mark.parametrize("name", figures.NAMES)
@pytest.mark.parametrize("options", [{}, SMALL, DEAD], ids=str)
def test_a_caption_says_what_is_measured_on_what(name, options):
    """Whatever the records: the task, every width, the seeds, and what bars or bands are."""
    made = frames(name, **options)
    text = figures.caption(name, made)
    assert 2 <= len(text.splitlines()) <= 5 and all(line.endswith(".") for line in text.splitlines()), text
    shown = made[-1]  # of the frames, that with the configuration
    for task in shown["task.name"].unique():
        assert task in text
    widths = [shown["task.width"].max()] if name == "lm_layers" else shown["task.width"].unique()
    assert all(str(width) in text for width in widths)
    seeds = shown["seed"].nunique()
    assert f"{seeds} seed{'s' * (seeds != 1)}" in text
    assert "interval" in text or "band" in text
    assert "nan" not in text and "inf" not in text, text


def test_a_caption_is_written_beside_its_figure_and_printed_where_it_was_asked_for(tmp_path, capsys, undrawn):
    (tmp_path / "records").mkdir()
    sweep(widths=(128, 256)).to_parquet(record_path(tmp_path, "lr_vs_width"))
    assert main(["lr_sensitivity", "--outputs", str(tmp_path)]) == 0
    caption = (tmp_path / "figures" / "lr_sensitivity.md").read_text()
    assert "At n = 256, Init[A] ends lower" in caption and caption in capsys.readouterr().out
    assert main(["--outputs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "drew" in printed and caption not in printed
    assert (tmp_path / "figures" / "headline.md").exists()


@pytest.mark.parametrize("name", ["headline", "lm_layers", "lora_plus"])  # lines and bars, images, both
def test_the_same_records_give_the_same_file(name, tmp_path):
    for stem in ("first", "second"):
        style.save(figures.draw(name, frames(name)), tmp_path / stem)
    for suffix in (".png", ".pdf"):
        first, second = ((tmp_path / f"{stem}{suffix}").read_bytes() for stem in ("first", "second"))
        assert first == second and len(first) > 5000


def test_missing_records_name_the_command(tmp_path, capsys):
    assert main(["lr_vs_width", "--outputs", str(tmp_path)]) == 2
    assert f"python -m runner experiment=lr_vs_width outputs={tmp_path}" in capsys.readouterr().err


def test_an_unknown_figure_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["nonsense"])
    assert stop.value.code == 2 and "unknown figure 'nonsense'; choose from" in capsys.readouterr().err


def test_runs_become_records_figures_and_claims(cli, outputs, capsys):
    tiny = ["task.width=8,16,32", "seed=0,1,2", "optimizer.lr=1e-3,1e-2,1e-1", "steps=15", "task.train_points=30"]
    assert cli("experiment=lr_vs_width", *tiny)[0] == 0
    assert main(["--outputs", str(outputs)]) == 0
    printed = capsys.readouterr().out
    assert (
        f"distilled {record_path(outputs, 'lr_vs_width')}: 54 runs" in printed
        and "skipped: no records of first_step" in printed
    )
    for name in ("lr_vs_width", "lr_sensitivity", "feature_norms", "gradient_norms", "increments", "headline"):
        assert (outputs / "figures" / f"{name}.png").exists()
    assert not (outputs / "figures" / "width_exponents.png").exists()
    assert "| 3a" in printed and "| 3a" in (outputs / "claims.md").read_text()


def test_any_experiment_can_be_drawn(cli, outputs):
    cli("task.width=16", "task.train_points=20", "steps=12")
    assert main(["gradient_norms", "--experiment", "scratch", "--outputs", str(outputs)]) == 0
    assert (outputs / "figures" / "scratch" / "gradient_norms.png").exists()


def test_figures_need_no_runs_and_no_training(monkeypatch, tmp_path):
    """The committed records are enough, and what trains is not even imported."""
    code = "import sys, analysis.__main__; print({'torch', 'numba', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    for experiment in figures.drawn():
        assert len(load(record_path(ROOT / "outputs", experiment)))

"""The figure of the coordinate check: what it draws and says of synthetic records, of toys and of checkpoints of three widths."""

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from models import CONFIGS, checkpoint, rows
from synthetic_coordinates import layers, runs

from analysis import coordinates, figures, style
from analysis.__main__ import main
from analysis.coordinates import RULES, by_kind
from analysis.figures import _caption, coordinate_check
from analysis.tables import records


def drawn(**options):
    """(panels against step, panels of exponents)"""
    figure = figures.draw("coordinate_check", [layers(**options), runs(**options)])
    above, *below = figure.subfigs
    return above.axes, below[0].axes if below else []


def lines(panel):
    return [np.asarray(line.get_ydata(), float) for line in panel.lines if len(line.get_ydata()) > 1]


def test_curves_are_of_the_widest_models_at_three_rates():
    above, _ = drawn(noise=0.0)
    assert [panel.get_title() for panel in above] == ["q_proj", "up_proj"] * 2
    assert [panel.get_ylabel() for panel in above[::2]] == ["Init[A]\nrelative size", "Init[B]\nrelative size"]

    def check(panel, init, kind, lrs=(2.0**-14, 2.0**-8, 0.5)):
        table = by_kind(layers(noise=0.0))
        of_panel = table[(table["init.name"] == init) & (table["kind"] == kind) & (table["task.width"] == 1024)]
        expected = []
        for lr in lrs:
            one = of_panel[(of_panel["optimizer.lr"] == lr) & (of_panel["seed"] == 0)].set_index("step")
            expected += [one["feature/Z_B"].dropna(), one["feature/dZ_B"].dropna()]
        found = lines(panel)
        assert len(found) == len(expected)
        for y, values in zip(found, expected, strict=True):
            assert y == pytest.approx(values.to_numpy())

    check(above[1], "gaussian_A", "up_proj")
    check(above[2], "gaussian_B", "q_proj")
    rejects(check, above[1], "gaussian_A", "q_proj")
    rejects(check, above[1], "gaussian_A", "up_proj", (2.0**-14, 2.0**-7, 0.5))


def test_many_kinds_of_layers_take_several_lines():
    """Nine of them two a piece, of which the second is not full."""
    parts = [layers(noise=0.0, seeds=(0, 1)).assign(layer=lambda t, i=i: f"layer{i}." + t["layer"]) for i in range(5)]
    frame = pd.concat(parts).loc[lambda t: ~t["layer"].str.contains("layer4.*up_proj")]
    figure = figures.draw("coordinate_check", [frame, runs(noise=0.0, seeds=(0, 1))])
    above = figure.subfigs[0].axes
    kinds = [f"layer{i}.model.layers.{end}" for i in range(5) for end in ("self_attn.q_proj", "mlp.up_proj")][:9]
    assert [panel.get_title() for panel in above] == kinds * 2 and all(len(lines(panel)) == 6 for panel in above)


def test_exponents_stand_in_their_rows_with_their_verdicts():
    options = {"noise": 0.05}
    _, below = drawn(**options)
    grid = coordinates.grid(by_kind(layers(**options)), runs(**options))
    places = [(init, power) for init in grid.inits for power in RULES]
    titles = [panel.get_title() for panel in below]
    assert titles == [
        f"Init[{i}], lr ∝ $n^{{{p}}}$: {n} of 2 stable"
        for i, p, n in (("A", "-1/2", 2), ("A", "-1", 0), ("B", "-1/2", 0), ("B", "-1", 2))
    ]
    assert [text.get_text() for text in below[0].get_yticklabels()] == ["q_proj", "up_proj"]
    for panel, (init, power) in zip(below, places, strict=True):
        slopes = coordinates.slopes(grid, init, power)
        for size, look in style.COORDINATES.items():
            [dots] = [line for line in panel.lines if line.get_marker() == look.marker]
            assert dots.get_ydata().round().tolist() == [0, 1]
            assert dots.get_xdata() == pytest.approx([slopes[size, kind].value for kind in ("q_proj", "up_proj")])
        words = [text.get_text() for text in panel.texts]
        assert words == [coordinates.verdict(slopes["feature/Z_B", kind]) for kind in ("q_proj", "up_proj")]


def test_the_caption_tells_verdicts_and_exponents():
    first, second, *_ = figures.caption("coordinate_check", [layers(noise=0.001), runs(noise=0.001)]).splitlines()
    half, one = first.split("; ")
    assert (
        "2 kinds of layer: at lr ∝ n^-0.5, under Init[A] stable in 2 (n^0.00), under Init[B] grows with width in 2 (n^0.50)"
        in half
    )
    assert one == "at lr ∝ n^-1, under Init[A] vanishes with width in 2 (n^-1.00), under Init[B] stable in 2 (n^0.00)."
    assert second.startswith("Rates are 0.016 at n = 128; W0·Z over Z scales as n^0.12 to n^0.50,")
    wrong = {"powers": {"A": (2.0, 1.5), "B": (1.0, 1.5)}, "noise": 0.001}
    flagged = figures.caption("coordinate_check", [layers(**wrong), runs(**wrong)]).splitlines()[0]
    assert "under Init[A] grows with width in 2 (n^0.50), under Init[B] grows with width in 2 (n^1.00);" in flagged


@pytest.mark.parametrize(
    ("options", "why"),
    [({"widths": (128,)}, "they take 3 widths"), ({"lrs": (0.25, 0.5)}, "do not span the rules")],
    ids=str,
)
def test_without_exponents_sizes_are_told(options, why):
    """At the middle rate: 0.5 and 8 are the largest and smallest factors of a layer; kinds are √(1·0.5) and √(2·8)."""
    options |= {"noise": 0.0}
    assert not drawn(**options)[1]
    first, second, *_ = figures.caption("coordinate_check", [layers(**options), runs(**options)]).splitlines()
    lr, n = (2.0**-8, 1) if "widths" in options else (0.5, 8)
    low, high = (_caption.number(size * 100 * lr * n) for size in (0.5**0.5, 4))
    assert f"{low} to {high} under Init[B]" in first and why in second


def test_rates_at_which_runs_diverged_are_left_out():
    """Of the records of layers, which hold rates at which all seeds finished, and so of the figure."""
    frame, of_runs = layers(noise=0.0), runs(noise=0.0)
    diverged = (of_runs["optimizer.lr"] > 0.1) & (of_runs["seed"] == 1)
    of_runs.loc[diverged, ["status", "summary.final_eval_loss"]] = ["diverged", np.nan]
    figure = figures.draw("coordinate_check", [frame[frame["optimizer.lr"] < 0.1], of_runs])
    labels = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert labels[:3] == ["lr 6.1e-05", "lr 0.002", "lr 0.062"]
    assert "Rates are 0.0039 at" in figures.caption("coordinate_check", [frame[frame["optimizer.lr"] < 0.1], of_runs])


SHORT = "log.layers=true steps=2 seed=0 init=gaussian_A,gaussian_B optimizer.lr=1e-3,2e-3,4e-3 adapter.rank=2".split()


def test_checkpoints_of_several_widths_are_one_check(cli, outputs, tmp_path, monkeypatch, capsys):
    """Their widths are their own, and so are their depths."""
    folders = []
    for width, depth in ((32, 2), (48, 1), (64, 2)):
        sizes = {"hidden_size": width, "num_hidden_layers": depth}
        for name, value in sizes.items():
            monkeypatch.setattr(CONFIGS["llama"], name, value)
        monkeypatch.setattr(CONFIGS["llama"], "head_dim", width // 2)
        folders.append(str(checkpoint(tmp_path / f"n{width}", "llama")))
    data = f"task.dataset={rows(tmp_path / 'd.jsonl', 60)}"
    small = ["task.sequence_length=16", "task.eval_sequences=4", "task.targets=[q_proj,up_proj]", *SHORT]
    code, _, err = cli("-m", "experiment=mine", "task=language_model", f"task.model={','.join(folders)}", data, *small)
    assert code == 0, err
    assert main(["coordinate_check", "--experiment", "mine", "--outputs", str(outputs)]) == 0
    caption = (outputs / "figures" / "mine" / "coordinate_check.md").read_text()
    captured = capsys.readouterr()
    assert "widths n = 32, 48 and 64" in caption and "2 kinds of layer" in caption and "warning" not in captured.err
    assert "not enough data in 2 (n^" in caption  # of one seed


@pytest.fixture
def toy(cli, outputs):
    sizes = ["task=feature_regression", "task.width=16,32,64", "task.target_rank=2", "task.train_points=20"]
    assert cli("-m", "experiment=mine", *sizes, *SHORT)[0] == 0
    return outputs


def test_a_toy_can_be_checked(toy, capsys):
    assert main(["coordinate_check", "--experiment", "mine", "--outputs", str(toy)]) == 0
    assert "1 kind of layer" in capsys.readouterr().out


def test_the_record_of_layers_keeps_every_rate_and_what_the_figure_shows(toy):
    """For none of them is the best; to five digits, byte by byte, which takes less room than as they are."""
    axes, kept = figures.axes("coordinate_check.layers"), figures.kept("coordinate_check.layers")
    assert "distilled" in records.refresh(toy, "mine.layers", axes, kept=kept)
    record, path = records.read(toy, "mine.layers"), records.record_path(toy, "mine.layers")
    assert sorted(record["optimizer.lr"].unique()) == [1e-3, 2e-3, 4e-3] and record["run_id"].nunique() == 18
    assert [name for name in record if "/" in name] == list(kept) == list(coordinate_check.MEASURED)
    whole = pd.concat(
        [pd.read_parquet(file).assign(run_id=file.parent.name) for file in toy.glob("runs/mine/*/layers.parquet")]
    )
    pd.testing.assert_frame_equal(
        *(table.set_index(["run_id", "step"]).sort_index()[list(kept)] for table in (record, whole)), rtol=2**-16
    )
    record.to_parquet(toy / "plain.parquet", compression="zstd", index=False)
    assert path.stat().st_size < (toy / "plain.parquet").stat().st_size


def test_runs_that_kept_no_layers_are_told_to(cli, outputs, capsys):
    assert cli("experiment=mine", "task.width=16", "task.train_points=20", "steps=2")[0] == 0
    assert main(["coordinate_check", "--experiment", "mine", "--outputs", str(outputs)]) == 2
    assert "train its runs with log.layers=true" in capsys.readouterr().err

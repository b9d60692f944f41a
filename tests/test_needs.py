"""What a figure or a claim needs and does not find is said in a line, with the command that makes it."""

from pathlib import Path

import pandas as pd
import pytest
import synthetic_coordinates
from synthetic import first_steps, layers, sweep
from synthetic_variants import MADE, ranks, ratios

from analysis import figures, report
from analysis.grid import NotShown
from analysis.tables import needs
from analysis.tables.where import Condition


def tables(name, **options):
    made = {
        "first_step": first_steps,
        "lm_lr_sensitivity": lambda: synthetic_coordinates.runs(**options),
        "lm_lr_sensitivity.layers": lambda: layers(**options),
        **{source: lambda make=make: make(**options) for source, make in MADE.items()},
    }
    return {source: made.get(source, lambda: sweep(**options))() for source in figures.sources(name)}


def draw(name, given):
    with needs.checked(name, given, Path("outputs")):
        return figures.draw(name, list(given.values()))


@pytest.mark.parametrize("name", figures.NAMES)
@pytest.mark.parametrize(
    "column", ["grad/A", "feature/Z_A", "feature/delta_2", "summary.trainable_parameters", "train/loss"]
)
def test_a_missing_column_is_said_and_never_a_key_error(name, column):
    """Dropped, of half of the cases, or there without a value; the figure is drawn, or the reason names what is missing."""
    given = tables(name, seeds=(0,))
    dropped = (len(name) + len(column)) % 2
    try:
        draw(
            name,
            {
                source: table.drop(columns=column, errors="ignore")
                if dropped
                else table.assign(**{column: float("nan")})
                for source, table in given.items()
            },
        )
    except NotShown as reason:
        assert column in str(reason) and "python -m runner" in str(reason)


@pytest.mark.parametrize(("name", "column"), [("gradient_norms", "grad/A"), ("lr_vs_width", "summary.final_loss")])
def test_figures_say_which_column_they_lack(name, column):
    def refused(given):
        with pytest.raises(NotShown, match=f"{name} needs {column}, which runs of .* do not have; .*python -m runner"):
            draw(name, given)

    refused({source: table.drop(columns=column) for source, table in tables(name, seeds=(0,)).items()})
    with pytest.raises(pytest.fail.Exception):
        refused(tables(name, seeds=(0,)))


LATER = {
    "gradient_norms": ["grad/B"],
    "headline": ["feature/delta_1"],
    "rank_transfer": ["train/loss", "adapter.alpha"],
}
LATER |= {"lm_lr_sensitivity": ["eval/loss", "summary.final_eval_loss"], "variants": ["summary.trainable_parameters"]}
LATER |= {"coordinate_check": ["feature/Y0", "feature/dZ_B"]}
LATER |= {"dora_directions": ["change/direction"], "lm_layers": ["feature/Z_A"], "lora_plus": ["optimizer.lr_ratio"]}


@pytest.mark.parametrize(("name", "column"), [(name, column) for name in LATER for column in LATER[name]])
def test_runs_from_before_a_column_was_measured_are_told_to_be_trained_again(name, column):
    """Of an experiment of the figure's own by its command; of others by the command that only the user knows."""
    own = {source: table.drop(columns=column, errors="ignore") for source, table in tables(name, seeds=(0,)).items()}
    experiment = figures.sources(name)[0].removesuffix(".layers")
    again = rf"needs {column}, .*; train them again with: python -m runner experiment={experiment} retrain=missing$"
    with pytest.raises(NotShown, match=again):
        draw(name, own)
    if column.startswith(("grad/", "feature/")):
        with pytest.raises(
            NotShown, match=r"repeat what trained them with retrain=missing: python -m runner .*experiment=mine"
        ):
            draw(name, {"mine" + source.removeprefix(experiment): table for source, table in own.items()})


@pytest.mark.parametrize("experiment", ["lr_vs_width", "first_step", "variants.layers", "rank_transfer"])
def test_claims_say_which_column_they_lack(experiment):
    made = {"first_step": first_steps, "lr_vs_width": lambda: sweep(seeds=(0,))}
    table = made.get(experiment, lambda: MADE[experiment](seeds=(0,)))()
    column = {"first_step": "grad/A", "variants.layers": "change/direction", "rank_transfer": "train/loss"}
    lacking = table.drop(columns=column.get(experiment, "feature/delta_2"))
    said = []
    claims = report.claims_of({experiment: lacking}, Path("outputs"), say=said.append)
    assert {claim.number[:-1] for claim in claims} <= {"13"}  # which needs less
    needed = column.get(experiment, "feature/delta_2")
    assert said and all(f"needs {needed}" in each and "retrain=missing" in each for each in said)
    assert report.claims_of({experiment: table}, Path("outputs"))


def test_what_a_choice_leaves_out_is_not_blamed_on_the_sweep():
    conditions = [Condition.parse("task.width=128")]
    chosen = (
        "the runs of mine with task.width=128 have only 128; choose more of them with --where, or train others with: "
    )
    with pytest.raises(NotShown, match=chosen):
        needs.check("lr_vs_width", sweep(widths=(128,)), "mine", Path("outputs"), conditions)
    with pytest.raises(NotShown, match="the runs of mine have only 128; train others with: "):
        needs.check("lr_vs_width", sweep(widths=(128,)), "mine", Path("outputs"))
    lacking = {"mine": sweep(seeds=(0,)).drop(columns="grad/A")}
    with pytest.raises(NotShown, match=r"runs of mine with task\.width=128 do not have; choose more"):
        with needs.checked("gradient_norms", lacking, Path("outputs"), conditions):
            pass


@pytest.mark.parametrize("key", ["nonsense", "grad/A", 3])
def test_a_mistake_of_ours_is_not_taken_for_a_missing_column(key, monkeypatch):
    def mistaken(name, frames):
        raise KeyError(key)

    monkeypatch.setattr(figures, "draw", mistaken)
    with pytest.raises(KeyError):
        draw("gradient_norms", {"mine": sweep()})


FEW = [
    ("lr_vs_width", {"widths": (128,)}, "needs 2 or more of task.width, and the runs of mine have only 128"),
    ("width_exponents", {"widths": (128, 256)}, "needs 3 or more of task.width"),
    ("headline", {"lrs": (0.03125, 0.0625)}, "needs 3 or more of optimizer.lr"),
    ("lr_sensitivity", {"lrs": (0.03125,)}, "needs 2 or more of optimizer.lr"),
]


@pytest.mark.parametrize(("name", "options", "message"), FEW)
def test_too_few_runs_to_fill_a_figure(name, options, message):
    with pytest.raises(NotShown, match=f"{message}.*train others with: python -m runner -m experiment=mine"):
        needs.check(name, sweep(**options), "mine", Path("outputs"))
    needs.check(name, sweep(), "mine", Path("outputs"))


@pytest.mark.parametrize(("name", "frame"), [("lora_plus", ratios(seeds=(0,))), ("rank_transfer", ranks(seeds=(0,)))])
def test_a_figure_of_one_width_says_how_to_choose_it(name, frame):
    wider = frame.assign(**{"task.width": 256}, run_id="wide-" + frame["run_id"])
    width = frame["task.width"].iloc[0]
    with pytest.raises(NotShown, match=f"runs at widths .*choose it with: --where task.width={max(width, 256)}"):
        draw(name, {"mine": pd.concat([frame, wider], ignore_index=True)})
    draw(name, {"mine": frame})

"""Runs chosen by their configuration: those that were meant and no others, or one message that helps."""

import numpy as np
import pandas as pd
import pytest
from conftest import rejects

from analysis.tables import settings
from analysis.tables.where import Condition, NoSuchRuns, is_written, none_anywhere, select

RUNS = pd.DataFrame(
    {
        "run_id": list("abcdef"),
        "status": "finished",
        "init.name": ["etf", "etf", "zero", "zero", "pissa", "pissa"],
        "adapter.rank": [4, 8, 4, 8, 4, 8],
        "adapter.start_from": [None, None, None, None, "a folder", None],
        "adapter.norm_gradient": pd.Series([True, False, None, None, None, None], dtype=object),
        "optimizer.lr": [2.0**-12, 1e-3, 1e-3, 1e-3, 1e-3, 0.1],
        "optimizer.clip": [np.nan, np.nan, np.nan, 1.0, np.nan, np.nan],
        "task.targets": ["q_proj, v_proj", "q_proj", "q_proj", "q_proj", "q_proj", "q_proj"],
        "seed": [0, 1, 100000, 100001, 0, 1],
        "summary.final_loss": 1.0,
    }
)
STEPS = RUNS.loc[RUNS.index.repeat(3)].assign(step=[0, 1, 2] * 6).reset_index(drop=True)


def chosen(*arguments):
    return "".join(select(STEPS, [Condition.parse(a) for a in arguments], "mine")["run_id"].unique())


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        ([], "abcdef"),
        (["adapter.rank=8"], "bdf"),
        (["adapter.rank=8.0"], "bdf"),
        (["adapter.rank=8", "init.name=etf,zero"], "bd"),
        (["optimizer.lr=1e-3"], "bcde"),
        (["optimizer.lr=0.000244141"], "a"),  # as a message shows it
        (["adapter.norm_gradient=true"], "a"),
        (["adapter.norm_gradient=False"], "b"),
        (["adapter.norm_gradient=null"], "cdef"),
        (["adapter.start_from=null"], "abcdf"),
        (["adapter.start_from=a folder"], "e"),
        (["optimizer.clip=null"], "abcef"),
        (["optimizer.clip=1"], "d"),
        (["task.targets=q_proj,v_proj"], "a"),  # a list, whole
        (["task.targets=q_proj"], "bcdef"),
        (["seed=100000"], "c"),  # whole numbers are not rounded
    ],
)
def test_the_runs_that_were_meant(arguments, runs):
    assert chosen(*arguments) == runs


def test_all_steps_of_a_run_stay():
    kept = select(STEPS, [Condition.parse("adapter.rank=8")], "mine")
    assert kept.groupby("run_id").size().tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank=8"], r"no field of that name; did you mean adapter\.rank\?"),
        (["adapter.rnak=8"], r"did you mean adapter\.rank"),
        (["nonsense=8"], "shows all fields"),
        (["summary.final_loss=1"], "no field"),  # a result is no choice
        (["adapter.rank=16"], r"no run of mine has adapter\.rank=16; there are 4, 8$"),
        (["adapter.rank=8,16"], r"adapter\.rank=16; there are"),
        (["adapter.norm_gradient=maybe"], "there are false, true, null"),
        (["optimizer.lr=0.5"], "there are 0.000244141, 0.001, 0.1"),
        (["adapter.rank=8", "optimizer.lr=0.000244141"], "adapter.rank=8 and optimizer.lr=0.000244141 together"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(arguments, message):
    with pytest.raises(NoSuchRuns, match=message):
        chosen(*arguments)


@pytest.mark.parametrize("argument", ["", "adapter.rank", "=8", "adapter.rank=", " = "])
def test_what_is_no_condition_is_refused(argument):
    with pytest.raises(ValueError, match="is not FIELD=VALUE"):
        Condition.parse(argument)


def test_one_message_for_several_experiments():
    def both(argument):
        condition, errors = Condition.parse(argument), []
        for name, table in (
            ("one", RUNS.drop(columns="seed")),
            ("other", RUNS.assign(**{"adapter.rank": 16}, run_id=list("ghijkl"))),
        ):
            with pytest.raises(NoSuchRuns) as caught:
                select(table, [condition], name)
            errors.append(caught.value)
        return str(none_anywhere(errors, [condition]))

    assert "did you mean adapter.rank?" in both("rank=4") and both("adapter.rank=9").endswith("there are 4, 8, 16")


def test_text_is_not_a_number():
    def same(value, text):
        assert is_written(value, text)

    same("8", "8")
    same(8, "8e0")
    rejects(same, "8", "8e0")
    rejects(same, 8, "8.000001")
    rejects(same, True, "1")
    rejects(same, None, "0")
    rejects(same, 0.001, "0.0011")


def grid(**fields):
    """Runs of a setting at a rate each."""
    lrs = np.array([1e-3, 1e-2, 1e-1])[: fields.pop("rates", 3)]
    table = pd.DataFrame({"optimizer.lr": lrs, "init.name": "etf", "task.width": 16, "seed": 0, "status": "finished"})
    table = table.assign(**{"adapter.rank": 4, "steps": 10, "task.name": "sine", **fields})
    return table.assign(run_id=[f"{fields}{lr}" for lr in lrs])


@pytest.mark.parametrize("other", [{"adapter.rank": 8}, {"steps": 5}, {"adapter.rank": 8, "steps": 5}])
def test_what_the_warning_says_chooses_the_runs_that_were_left_out(other):
    frame = pd.concat([grid(), grid(rates=2, **other)], ignore_index=True)
    with pytest.warns(
        settings.LeftOut, match="using the 3 with .*, leaving out 2; choose others with: --where"
    ) as caught:
        kept = settings.one_setting(frame)
    assert len(kept) == 3
    words = str(caught[0].message).split("choose others with: ")[1].split()
    conditions = [Condition.parse(word) for word in words if word != "--where"]
    left = select(frame, conditions, "mine")
    assert set(left["run_id"]) == set(frame["run_id"]) - set(kept["run_id"])
    assert settings.one_setting(left) is left or len(settings.one_setting(left)) == 2


def test_the_warning_names_as_few_fields_as_choose():
    """Three settings: the field that both others have tells nothing."""
    frame = pd.concat(
        [grid(), grid(rates=2, steps=5), grid(rates=1, steps=5, **{"adapter.rank": 8})], ignore_index=True
    )
    with pytest.warns(settings.LeftOut, match=r"choose others with: --where steps=5$"):
        settings.one_setting(frame)


def test_parts_that_were_trained_differently_are_told():
    frame = pd.concat([grid(), grid(steps=5, **{"adapter.rank": 8})], ignore_index=True)
    with pytest.warns(settings.LeftOut, match=r"differ in steps \(10, 5\); choose one with: --where steps=10"):
        assert len(settings.comparable(frame, ["adapter.rank"])) == 2
    settings.comparable(frame.assign(steps=10), ["adapter.rank"])  # a warning would be an error
    settings.comparable(frame.assign(**{"task.name": ["sine"] * 3 + ["linear"] * 3}), ["task.name"])

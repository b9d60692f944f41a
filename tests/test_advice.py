"""Advice: the numbers of synthetic runs whose truth is known, the words for them, and the command."""

import json
import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from scipy import stats

from analysis.__main__ import main
from analysis.advice import figure, text
from analysis.advice.answers import gap, more_seeds, questions
from runner.core.optimum import interval

SEEDS = 5
LRS = 2.0 ** np.arange(-12, -2)


def runs(ways, task="language_model", lrs=LRS, seeds=SEEDS, start=3.0, noise=0.004, **fields):
    """A row a run. `ways`: init -> (log2 of its best rate, loss there); 1 nat a doubling squared, diverged 4 doublings above."""
    rng, rows = np.random.default_rng(0), []
    of_seed = rng.normal(0, 0.1, seeds)  # what all ways of a seed share
    for init, (best, lowest) in ways.items():
        for lr in lrs:
            for seed in range(seeds):
                apart = np.log2(lr) - best
                loss = lowest + 0.02 * apart**2 + of_seed[seed] + noise * rng.normal()
                broken = apart > 4
                rows.append(
                    {
                        "run_id": f"{init}-{lr}-{seed}",
                        "status": "diverged" if broken else "finished",
                        "experiment": "mine",
                        "task.name": task,
                        "task.model": "my/model",
                        "task.width": 64,
                        "adapter.name": "lora",
                        "init.name": init,
                        "optimizer.name": "adamw",
                        "optimizer.lr": lr,
                        "seed": seed,
                        "steps": 100,
                        "log.every": 1,
                        "summary.initial_loss": start,
                        "summary.initial_eval_loss": start + of_seed[seed],
                        "summary.final_loss": np.nan if broken else loss,
                        "summary.final_eval_loss": np.nan if broken else loss,
                        **fields,
                    }
                )
    return pd.DataFrame(rows)


UNDECIDED = (
    r"not decided against init=kaiming_\w, which ends .* nats higher; (about \d+ more seeds? may decide it|many more)"
)
TWO = {"kaiming_A": (-7.3, 2.0), "kaiming_B": (-9.2, 2.05)}


def test_best_rates_gaps_and_breakdown_are_those_of_the_runs():
    [question] = questions(runs(TWO))
    first, second = question.answers

    def check(first, second, gap):
        assert (first.name, second.name) == ("init=kaiming_A", "init=kaiming_B")
        for answer, (best, _) in zip((first, second), TWO.values(), strict=True):
            assert answer.found.low <= best <= answer.found.high and abs(answer.found.x - best) < 0.2
        assert gap.by.low <= 0.05 <= gap.by.high and gap.decided and gap.more is None

    check(first, second, question.gaps[0])
    rejects(check, second, first, question.gaps[0])
    assert question.nats and question.start == pytest.approx(3.0, abs=0.2)
    assert (
        np.log2(first.breaks) == -3 and np.log2(first.holds) == -4
    )  # the first of the grid beyond -7.3 + 4, and the one before
    seeds = first.curve[first.found.point].values()
    assert (first.loss.low, first.loss.high) == pytest.approx(np.exp(interval(list(seeds))))


def test_a_gap_is_paired_by_seed():
    """Seeds scatter by 0.1 nats and differences by a twentieth of that: unpaired, nothing would be decided."""
    [question] = questions(runs(TWO))
    one, two = (list(answer.at_best().values()) for answer in question.answers)
    assert stats.ttest_ind(one, two).pvalue > 0.05 and question.gaps[0].decided
    paired = stats.ttest_rel(two, one).confidence_interval()
    assert (question.gaps[0].by.low, question.gaps[0].by.high) == pytest.approx((paired.low, paired.high))


def test_toys_are_compared_by_ratios():
    [question] = questions(runs(TWO, task="teacher_student"))
    assert not question.nats and question.gaps[0].by.value == pytest.approx(2.05 / 2.0, rel=0.02)
    assert "times as high" in text.verdict(question) and "nats" not in text.verdict(question)


def test_seeds_that_would_decide_are_counted():
    apart = np.array([0.01, -0.004, 0.02, 0.0, 0.006])
    more = more_seeds(apart)

    def check(more):
        for extra, decides in ((more, True), (more - 1, False)):
            half = stats.t.ppf(0.975, len(apart) + extra - 1) * apart.std(ddof=1) / math.sqrt(len(apart) + extra)
            assert (half < apart.mean()) == decides

    check(more)
    rejects(check, more + 1)
    assert more_seeds(np.array([0.01, -0.01, 0.0])) is None  # no number would
    assert more_seeds(np.array([0.01, 0.02])) is None  # two seeds tell too little


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (runs(TWO), r"^Start A at random .* \(init=kaiming_A\), lr 0.006\d? \[0.00\d+, 0.00\d+\]; .*kaiming_B ends 0.05\d? \["),
        (runs({"kaiming_B": (-8, 2.0), "kaiming_A": (-8, 2.2)}), r"^Start B at random and A at zero \(init=kaiming_B\)"),
        (runs({"pissa": (-8, 2.0), "kaiming_A": (-8, 2.2)}), r"^Use init=pissa, lr"),
        (runs({"kaiming_A": (-8, 2.0), "kaiming_B": (-8, 2.001)}, noise=0.01), UNDECIDED),
        (runs({"kaiming_A": (-2, 2.0)}), r"the highest rate that was tried: the best may lie beyond"),
        (runs({"kaiming_A": (-13, 2.0)}), r"the lowest rate that was tried: the best may lie beyond"),
        (runs({"kaiming_A": (-20, 2.0)}), r"^No rate at which every seed finished; search lower rates\.$"),
        (runs({"kaiming_A": (-8, 2.0), "kaiming_B": (-20, 2.0)}), r"init=kaiming_B has no rate at which every seed finished"),
        (runs({"kaiming_A": (-8, 3.5)}), r"^No rate improves on the frozen model"),
        (runs(TWO, seeds=1), r"one seed: no interval.*one seed decides nothing"),
        (runs({f"i{k}": (-8, 2 + k / 10) for k in range(6)}), r"; 5 others end 0.1 to 0.5 nats higher\.$"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_runs_say_in_one_sentence(table, says):
    [question] = questions(table)
    sentence = text.verdict(question)
    assert re.search(says, sentence), sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")
    json.loads(json.dumps(text.data(question), allow_nan=False))  # as every reader of JSON takes it
    figure.draw([question])


def test_what_is_measured_of_a_run_makes_no_other_question_and_other_fields_do():
    watched = pd.concat([runs(TWO), runs({"pissa": (-8, 2.0)}, **{"log.every": 5})])
    assert [len(q.answers) for q in questions(watched)] == [3]
    longer = pd.concat([runs(TWO), runs(TWO, steps=200).assign(run_id=lambda t: "long" + t["run_id"])])
    assert [text.heading(q) for q in questions(longer)] == ["steps=100", "steps=200"]


def test_ways_with_fewer_seeds_do_not_compare():
    """As a search along two axes leaves them: what is tried in passing would be lucky or not."""
    table = pd.concat([runs(TWO), runs({"pissa": (-8, 1.9)}, seeds=2)])
    [question] = questions(table)
    assert [answer.name for answer in question.answers] == ["init=kaiming_A", "init=kaiming_B"]
    assert question.left_out == 1 and "1 other way" in text.told(question)[-1]


def test_ways_are_called_by_what_differs():
    dora = runs({"kaiming_A": (-8, 2.1)}, **{"adapter.name": "dora", "adapter.norm_gradient": False})
    [question] = questions(pd.concat([runs(TWO), dora]))
    assert {answer.name for answer in question.answers} == {
        "adapter=lora init=kaiming_A",
        "adapter=lora init=kaiming_B",
        "adapter=dora init=kaiming_A",
    }


TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=20", "seed=0,1,2"]


def test_the_experiment_ends_in_an_answer_that_the_command_says_again(cli, outputs, capsys):
    code, out, _ = cli("experiment=advise", *TINY)
    said = [line for line in out.splitlines() if re.match(r"Start|  init=", line)]
    assert code == 0 and len(said) == 3, out
    assert f"next:  python -m analysis advise --experiment advise --outputs {outputs}" in out
    assert main(["advise", "--outputs", str(outputs)]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[:3] == said
    folder = outputs / "figures" / "advise"
    assert {path.name for path in folder.iterdir()} == {"advise.pdf", "advise.png", "advise.md", "advise.json"}
    [question] = json.loads((folder / "advise.json").read_text())
    assert said[0].endswith(question["verdict"]) and question["answers"][0]["best"]["interval"]
    assert main(["advise", "--outputs", str(outputs), "--where", "init.name=kaiming_B"]) == 0
    assert capsys.readouterr().out.startswith("Start B at random")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--experiment", "nothing"], "holds no finished runs; train some: python -m runner experiment=advise"),
        (["--experiment", "../x"], "must be a name"),
        (["--where", "x"], "--where 'x' is not FIELD=VALUE"),
        (["--where", "init.name=none"], "no run of lm_lr_sensitivity has init.name=none"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_message(arguments, says, capsys):
    given = (
        ["advise", *arguments]
        if "--experiment" in arguments
        else ["advise", "--experiment", "lm_lr_sensitivity", *arguments]
    )
    try:
        code = main(given)
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and says in capsys.readouterr().err


def test_a_record_answers_too(tmp_path, capsys):
    (tmp_path / "records").mkdir()
    shutil.copy("outputs/records/lm_lr_sensitivity.parquet", tmp_path / "records")
    assert main(["advise", "--experiment", "lm_lr_sensitivity", "--outputs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("Start A at random and B at zero (init=gaussian_A)") == 3 and "frozen model" in out


def test_equal_ways_are_not_told_apart_however_many_there_are():
    """The lowest of ten is so by luck: at 95% for each comparison alone, half of such tables would have some way that differs."""

    def told_apart(corrected):
        found = 0
        for trial in range(25):
            rng = np.random.default_rng(trial)
            table = runs({f"i{k}": (-7, 2.0) for k in range(10)}, lrs=LRS[4:7], noise=0.0)
            table["summary.final_eval_loss"] += 0.01 * rng.normal(size=len(table))
            [question] = questions(table)
            best, *others = question.answers
            gaps = question.gaps if corrected else [gap(best, other, nats=True) for other in others]
            found += any(each.decided for each in gaps)
        return found / 25

    def check(corrected):
        assert told_apart(corrected) <= 0.16  # four of 25: 5% have more by chance alone in less than 1 of 25 such tests

    check(corrected=True)
    rejects(check, False)


def test_rates_far_apart_have_a_noise_too():
    """Factors of 10: no other rate lies within the two doublings whose noise is looked at first."""
    table = runs({"kaiming_A": (-7, 2.0)}, lrs=10.0 ** np.arange(-4, 0), noise=0.3)
    [question] = questions(table)
    low, high = question.answers[0].found.good
    assert low < high and np.isfinite(question.answers[0].found.x)


def test_what_a_search_or_a_user_adds_at_one_rate_does_not_decide():
    """Two more seeds at the worst rate, with a low loss there, and one more in one way."""
    table = runs(TWO)
    more = runs({"kaiming_A": (-7.3, 1.0)}, lrs=LRS[:1], seeds=7).query("seed >= 5")
    [question] = questions(pd.concat([table, more.assign(run_id="more")]))
    assert len(question.answers) == 2 and question.answers[0].found.point == -7 and not question.answers[0].found.edge


def test_no_gain_beyond_the_noise_is_no_advice():
    """A loss of 2.99 beside 3.0, with a noise of 0.02 in the difference: paired, and each seed by its own start."""
    table = runs({"kaiming_A": (-7, 2.995)}, noise=0.02)
    assert text.verdict(questions(table)[0]).startswith("No rate improves on the frozen model")
    assert text.verdict(questions(runs({"kaiming_A": (-7, 2.9)}, noise=0.02))[0]).startswith("Start A")


def test_ways_that_differ_in_null_or_a_folder_are_named():
    null = runs({"kaiming_A": (-8, 2.1)}, **{"optimizer.clip": None})
    one = runs({"kaiming_A": (-8, 2.0)}, **{"optimizer.clip": 1.0}).assign(run_id=lambda t: "1" + t["run_id"])
    [question] = questions(pd.concat([null, one]))
    assert [answer.name for answer in question.answers] == ["optimizer.clip=1", "optimizer.clip=null"]
    folder = runs({"kaiming_A": (-8, 2.0)}, **{"adapter.start_from": "mine/adapter"})
    [question] = questions(folder)
    assert text.verdict(question).startswith("Use adapter.start_from=mine/adapter, lr")


def test_experiments_of_one_command_have_answers_of_their_own(cli, outputs):
    code, out, _ = cli("experiment=advise,first_step", *TINY[:-1], "seed=0,1")
    assert (
        code == 0
        and out.count("(init=kaiming_") == 1
        and "gaussian" not in re.findall(r"^Start.*", out, re.MULTILINE)[0]
    )
    assert "teacher_student" in out  # the table of the other

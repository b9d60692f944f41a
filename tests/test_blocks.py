"""A configuration read block by block is the configuration that the file holds, whatever the file holds."""

import random

import pytest
import yaml
from conftest import configure, rejects

from analysis.tables import blocks
from runner.config.identity import as_dict
from runner.store.files import read_fields

ADVERSARIAL = [
    b"",
    b"a",
    b"a:\n",
    b"a: 1",
    b"a: 1\nb: 2\n",
    b"a:\nb: 1\n",
    b"a: 1\na: 2\n",
    b"a:\n  x: 1\na:\n  y: 2\n",
    b"a:\n- 1\n- 2\nb: 3\n",
    b"a: 1\n- 2\nb: 3\n",
    b"a: 1\n  b: 2\n",
    b"a:\n    x: 1\n  y: 2\nb: 3\n",
    b"- 1\n- 2\n",
    b"a: &x\n  k: 1\nb: *x\n",
    b"a: &x\n  k: 1\nb:\n  <<: *x\n",
    b"a: [1,\nb: 2]\n",
    b"a: {x: 1,\nb: 2}\n",
    b'a: "one\nb: two"\nc: 3\n',
    b"a: 'one\nb: two'\nc: 3\n",
    b"a: 'it''s'\nb: ''\n",
    b"a: 'x' 'y'\nb: 1\n",
    b"a: |\n  text\n  b: 1\nb: 2\n",
    b"a: >\n  text\n\nb: 2\n",
    b"a: one\n  two\nb: 3\n",
    b"? a\n: 1\nb: 2\n",
    b"a: 1 # note\n# b: 2\nc: 3\n",
    b"---\na: 1\n",
    b"a: 1\n---\nb: 2\n",
    b"a: 1\n...\nb: 2\n",
    b"%YAML 1.1\n---\na: 1\n",
    b"a: !!python/object/apply:os.getcwd []\n",
    b"a: !!binary aGk=\n",
    b"a: 1\r\nb: 2\r\n",
    b"a: x\xc2\x85b: 2\n",
    b"a: \xc3\xa9\nb: 1\n",
    b"\xef\xbb\xbfa: 1\nb: 2\n",
    b"a:\t1\nb: 2\n",
    b"a: 1e-3\nb: 1.0e-08\nc: .inf\nd: ~\ne: null\nf: yes\ng: 0x1F\nh: 1_000\ni: 2001-01-01\n",
    b"yes: 1\ntrue: 2\nnull: 3\n",
    b"a: - 1\nb: 2\n",
    b"a: []\nb: {}\nc: [\n",
    b"a: =\nb: 1\n",
    b"a: b: c\n",
    b"a: x:\nb: 1\n",
    b"[" * 100_000,
    b"- " * 100_000,
    b"a: " + b"[" * 100_000 + b"\nb: 1\n",
]


def outcome(parse, text):
    """The value with its types, or the kind of error."""
    try:
        return repr(parse(text))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return type(error)


def agrees(parse, texts):
    for text in texts:
        assert outcome(parse, text) == outcome(read_fields, text), text[:80]


def without_care(text):
    """Cuts any text at the keys of its left edge."""
    tree = {}
    for block in blocks.START.split(text)[1:]:
        tree |= yaml.safe_load(block)
    return tree


def test_blocks_of_an_adversarial_text_are_those_of_the_whole():
    agrees(blocks.parse, ADVERSARIAL)
    cut = [text for text in ADVERSARIAL if blocks.SIMPLE.fullmatch(text)]
    assert len(cut) >= 8  # some of them are read block by block
    for text in (b'a: "one\nb: two"\nc: 3\n', b"a: &x\n  k: 1\nb: *x\n", b"a: [1,\nb: 2]\n"):
        rejects(agrees, without_care, [text])


def test_blocks_of_random_texts_are_those_of_the_whole():
    pieces = ["\n", "\n  ", "\n- ", ": ", "x y", " ", *"ab:1'\"[]#|~", "{}", "- ", "&k ", "*k"]
    lines = ["a: 1", "b:", "  k: x y", "  - 1", "- 2", "c: 'q'", "  k:", " k: 2", "    - b", "a: []"]
    rng = random.Random(0)
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 12))) for _ in range(2000)]
    texts += ["\n".join([*rng.choices(lines, k=rng.randint(1, 6)), ""]) for _ in range(1000)]
    encoded = [text.encode() for text in texts]
    agrees(blocks.parse, encoded)
    assert sum(bool(blocks.SIMPLE.fullmatch(text)) for text in encoded) > 100


@pytest.mark.parametrize(
    "overrides", [[], ["task=language_model", "task.dataset='data/*.jsonl'"], ["adapter=vera", "init=vera_b0"]]
)
def test_what_the_runner_writes_is_read_block_by_block(overrides):
    text = yaml.dump(as_dict(configure(*overrides)), sort_keys=False).encode()
    assert blocks.SIMPLE.fullmatch(text)
    blocks._parse_block.cache_clear()
    assert blocks.parse(text) == yaml.safe_load(text)
    other = text.replace(b"\nseed: 0\n", b"\nseed: 1\n")
    assert other != text and blocks.parse(other) == yaml.safe_load(other)
    # All but the seed again.
    assert blocks._parse_block.cache_info().misses == blocks._parse_block.cache_info().hits + 2

"""A run's config.yaml, parsed once for each distinct top-level block: the runs of a sweep share most of theirs."""

import re
from functools import lru_cache
from typing import Any

import yaml

from runner.store.files import read_fields

# What the runner writes, line by line: `key:`, `key: value` and `- item`, where a value ends on its own line. Such a text
# can be cut wherever a key stands at its left edge. Anything else (anchors, tags, documents, comments, flow collections,
# values over several lines, letters beyond ASCII) is parsed as a whole.
PLAIN = rb"[A-Za-z0-9_./~+-][A-Za-z0-9_./~+=*,() -]*"
VALUE = rb"(?:%b|(?:'[ -&(-~]*')+|\[\]|\{\})" % PLAIN
KEY = rb"[A-Za-z_][A-Za-z0-9_]*"
SIMPLE = re.compile(rb"(?:%b:(?: %b)?\n(?: +%b:(?: %b)?\n| *- %b\n)*)+" % (KEY, VALUE, KEY, VALUE, VALUE))
START = re.compile(rb"^(?=%b:)" % KEY, re.MULTILINE)


def parse(text: bytes) -> dict[str, Any]:
    """What `read_fields` returns; its parts are shared with other results, so they are not to be changed.

    Raises yaml.YAMLError, ValueError, and RecursionError where the text is nested too deeply.

    The loader in Python is used, not libyaml's: that one overflows the stack, and ends the process, on a deeply nested text.
    """
    if not SIMPLE.fullmatch(text):
        return read_fields(text)
    tree: dict[str, Any] = {}
    for block in START.split(text)[1:]:
        tree |= _parse_block(block)
    return tree


@lru_cache(maxsize=2**14)
def _parse_block(text: bytes) -> dict[str, Any]:
    return yaml.safe_load(text)

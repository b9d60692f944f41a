"""A run's config.yaml, parsed once for each distinct top-level block: the runs of a sweep share most of theirs."""

import itertools
import math
import re
from functools import lru_cache
from typing import Any

import yaml

# What the runner writes, line by line: `key:`, `key: value` and `- item`, where a value ends on its own line. Such a text
# can be cut wherever a key stands at its left edge. Anything else (anchors, tags, documents, comments, flow collections,
# values over several lines, letters beyond ASCII) is parsed as a whole.
PLAIN = rb"[A-Za-z0-9_./~+-][A-Za-z0-9_./~+=*,() -]*"
VALUE = rb"(?:%b|(?:'[ -&(-~]*')+|\[\]|\{\})" % PLAIN
KEY = rb"[A-Za-z_][A-Za-z0-9_]*"
SIMPLE = re.compile(rb"(?:%b:(?: %b)?\n(?: +%b:(?: %b)?\n| *- %b\n)*)+" % (KEY, VALUE, KEY, VALUE, VALUE))
START = re.compile(rb"^(?=%b:)" % KEY, re.MULTILINE)
MOST_NODES = 10**5  # of a text with its aliases written out; a configuration has hundreds


def parse(text: bytes) -> Any:
    """What `yaml.safe_load` returns; its parts are shared with other results, so they are not to be changed.

    Raises yaml.YAMLError, also where aliases blow the text up, and RecursionError where it is nested too deeply.

    The loader in Python is used, not libyaml's: that one overflows the stack, and ends the process, on a deeply nested text.
    """
    if not SIMPLE.fullmatch(text):
        return _parse_whole(text)
    tree: dict[str, Any] = {}
    for block in START.split(text)[1:]:
        tree |= _parse_block(block)
    return tree


@lru_cache(maxsize=2**14)
def _parse_block(text: bytes) -> dict[str, Any]:
    return yaml.safe_load(text)


def _parse_whole(text: bytes) -> Any:
    """`yaml.safe_load`, which builds what an alias stands for once, but whoever walks through the tree meets it each time."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _nodes(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_NODES} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _nodes(node: yaml.Node, known: dict[int, float]) -> float:
    """How many nodes there are with all aliases written out; inf where one stands for a part of itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = itertools.chain(*inner) if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]

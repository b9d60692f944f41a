"""Messages to the person at the terminal, on stderr; stdout is for results."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_listeners: list[Callable[[str], None]] = []


def say(sentence: str) -> None:
    """A line that does not break the progress bar."""
    tqdm.write(sentence, file=sys.stderr)


def announce(activity: str) -> None:
    """What training waits for now, such as "compiling kernels"; "" once it goes on."""
    for listener in _listeners:
        listener(activity)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Within, the listener hears what this process announces."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)

"""Messages to the person at the terminal, on stderr; stdout is for results."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm

_listeners: list[Callable[[str], None]] = []


def say(sentence: str) -> None:
    """A line that does not break the progress bar. One that cannot be written, because nobody reads it, must not end training."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            tqdm.write(sentence, file=sys.stderr)


def first_line(error: Exception) -> str:
    """Of what an error says, or its type where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def announce(activity: str) -> None:
    """What training waits for now, such as "loading a model"."""
    for listener in _listeners:
        listener(activity)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Within, the listener is called with what this process announces."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)

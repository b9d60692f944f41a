"""The streams of a command: what it says can be written, whatever encoding a terminal has and whichever streams are closed."""

import atexit
import os
import sys

NAMES = ("stdin", "stdout", "stderr")


def prepare() -> None:
    """To be called first by every command.

    What an encoding lacks is written as an escape. A closed stream (`2>&-`) becomes one to nowhere, and its number is taken, so
    that no file that is opened later gets it, in which libraries would then write their messages; nor in a process started here.
    Messages that nobody reads, or for which a disk has no room, do not make a command fail at its end.
    """
    atexit.register(_let_go)
    for number in range(len(NAMES)):
        if not _is_open(number):
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # it gets the lowest free number, which is this one
    for number, name in enumerate(NAMES):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w" if number else "r")
            setattr(sys, name, stream)
        if number:
            stream.reconfigure(errors="backslashreplace")


def _let_go() -> None:
    """Of what is still to be written to stderr where that cannot be: else Python ends with exit code 120."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True

"""The streams of a command: what it says can be written, whatever encoding a terminal has and whichever streams are closed."""

import os
import sys

NAMES = ("stdin", "stdout", "stderr")


def prepare() -> None:
    """To be called first by every command.

    What an encoding lacks is written as an escape. A closed stream (`2>&-`) becomes one to nowhere, and its number is taken, so
    that no file that is opened later gets it, in which libraries would then write their messages; nor in a process started here.
    """
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


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True

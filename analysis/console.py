"""What the command says, each sentence once, and whether something that is there could not be shown."""

import errno
import os
import sys
from typing import TextIO


class Console:
    """Lines on stdout, and of what went wrong on stderr. One that nobody reads must not end the drawing."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.failed = False

    def say(self, sentence: str) -> None:
        self._once(sentence, sys.stdout)

    def warn(self, sentence: str) -> None:
        self._once(sentence, sys.stderr)

    def fail(self, sentence: str) -> None:
        """A warning after which the command's exit code is not 0."""
        self.failed = True
        self.warn(sentence)

    def _once(self, sentence: str, stream: TextIO | None) -> None:
        if sentence in self.said:
            return
        self.said.add(sentence)
        try:
            print(sentence, file=stream, flush=True)
        except OSError as error:
            # What comes next goes nowhere, and what is left in the buffer with it, which the interpreter would try again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if error.errno != errno.EPIPE and stream is sys.stdout:
                self.fail(f"error: cannot print ({error.strerror}); files are written all the same")

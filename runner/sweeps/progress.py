"""What a person sees on stderr while runs are trained: a bar in a terminal, a line now and then in a job's log."""

import sys
import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from runner.config import Config
from runner.core.messages import say
from runner.sweeps.memory import extent

LINE_EVERY = 60.0  # seconds, at the most, between two lines of a log
LINES_APART = 1.0  # seconds, at the least
ROUNDING = 1e-9


class Progress:
    """Runs done, current loss, time left, and what training waits for; a context that ends the bar.

    Outside a terminal: a line at the start, at each tenth of the work, and after a minute without one.
    """

    FORMAT = "{percentage:3.0f}% |{bar:24}| {desc} [{elapsed} elapsed, {remaining} left]"

    def __init__(self, stacks: Sequence[Sequence[Config]], cost: Callable[[Config], float]):
        configs = [config for stack in stacks for config in stack]
        self.cost = cost
        self.runs, self.done, self.work, self.loss, self.activity = len(configs), 0, 0.0, "", ""
        self.in_progress: dict[int, float] = {}
        self.started = self.last_line = time.monotonic()
        self.tenths = 0  # of the work, that have been reported
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        self.total = sum(map(cost, configs))
        self.bar = tqdm(total=self.total, bar_format=self.FORMAT, disable=not self.terminal, leave=False)
        if self.runs:
            say(("" if self.terminal else "  0%, ") + extent(stacks))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def step(self, stack: Sequence[Config], steps: float, loss: float) -> None:
        """A stack has come this far, with this median loss."""
        self.in_progress[id(stack)] = sum(map(self.cost, stack)) * steps / stack[0].steps
        self.loss, self.activity = f", loss {loss:.3g}", ""
        self._show()

    def waits(self, activity: str) -> None:
        """Training waits for this, such as "compiling kernels"."""
        self.activity = activity
        self._show()

    def finish(self, stack: Sequence[Config], done: Sequence[Config]) -> None:
        """A stack has ended; `done` are the runs of it that need no second try."""
        self.in_progress.pop(id(stack), None)
        self.done += len(done)
        self.loss = ""  # it was of steps before the last
        self.work += sum(map(self.cost, done))
        self._show()

    def _show(self) -> None:
        work = self.work + sum(self.in_progress.values())
        state = f"{self.done}/{self.runs} runs{self.loss}{', ' * bool(self.activity)}{self.activity}"
        if self.terminal:
            self.bar.update(work - self.bar.n)
            self.bar.set_description_str(state)
        elif self.total:
            self._line(work / self.total, state)

    def _line(self, share: float, state: str) -> None:
        now = time.monotonic()
        waited, spent = now - self.last_line, now - self.started
        tenths = int(10 * share + ROUNDING)
        if waited > LINE_EVERY or (tenths > self.tenths and (waited > LINES_APART or tenths == 10)):
            self.last_line, self.tenths = now, tenths
            left = f", about {_minutes(spent / share - spent)} left" if 0 < share < 1 else ""
            say(f"{share:4.0%}, {state} [{_minutes(spent)} elapsed{left}]")


def _minutes(seconds: float) -> str:
    """m:ss, as the bar has it."""
    return tqdm.format_interval(seconds)

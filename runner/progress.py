"""What a person at the terminal sees while runs are trained, on stderr."""

import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm

from runner.schema import Config


def say(sentence: str) -> None:
    """A line that does not break the progress bar."""
    tqdm.write(sentence, file=sys.stderr)


class ProgressBar:
    """Runs done, current loss and time left on stderr; silent when stderr is not a terminal."""

    FORMAT = "{percentage:3.0f}% |{bar:24}| {desc} [{elapsed} elapsed, {remaining} left]"

    def __init__(self, configs: list[Config], cost: Callable[[Config], float]):
        self.cost = cost
        self.runs, self.done, self.work, self.loss = len(configs), 0, 0.0, ""
        self.under_way: dict[int, float] = {}
        self.bar = tqdm(total=sum(map(self.cost, configs)), bar_format=self.FORMAT, disable=None, leave=False)

    def step(self, stack: Sequence[Config], steps: float, loss: float) -> None:
        """A stack has come this far, with this median loss."""
        self.under_way[id(stack)] = sum(map(self.cost, stack)) * steps / stack[0].steps
        self.loss = f", loss {loss:.3g}"
        self._show()

    def finish(self, stack: Sequence[Config], done: Sequence[Config]) -> None:
        """A stack has ended; `done` are the runs of it that need no second try."""
        self.under_way.pop(id(stack), None)
        self.done += len(done)
        self.work += sum(map(self.cost, done))
        self._show()

    def _show(self) -> None:
        self.bar.update(self.work + sum(self.under_way.values()) - self.bar.n)
        self.bar.set_description_str(f"{self.done}/{self.runs} runs{self.loss}")

    def close(self) -> None:
        self.bar.close()

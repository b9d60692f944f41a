"""What records say of inits, in words that are true of them: which ends lower, and what grows or falls with width."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis import style
from analysis.figures._caption import counted, interval, listed, number, power, ratio
from analysis.grid import Grid
from analysis.scaling import MIN_SEEDS, MIN_WIDTHS, Estimate, bootstrap

Measure = Callable[[Grid, str], np.ndarray]


def label(init: str) -> str:
    return style.look(init).label


def best_losses(grid: Grid, init: str) -> np.ndarray:
    """(W,) mean over seeds of log final loss at the grid's best learning rate; nan where that is at the edge."""
    bests = [grid.best(init, width) for width in grid.widths]
    return np.array([np.nan if best.edge else best.log_loss for best in bests])


@dataclass(frozen=True)
class Contest:
    """The two inits that end lowest at a width, the lower one first.

    `gap`: how much higher the second ends, in nats or as the log of a factor; `rates`: log of its best rate over the first's.
    `edges`: those of the two whose best rate lies at the grid's edge, which leaves gap and rates without a value.
    """

    inits: list[str]
    width: int
    losses: list[float]
    lrs: list[float]
    gap: Estimate
    rates: Estimate
    edges: list[str]
    seeds: int
    nats: bool

    @property
    def decided(self) -> bool:
        return self.gap.low > 0

    @property
    def title(self) -> str:
        """The message in a few words."""
        if not self.inits:
            return "No rate at which all seeds finish"
        if len(self.inits) < 2:
            return f"Only {label(self.inits[0])} was tried, or finished"
        if self.edges:
            return "Open which ends lower:\na best rate at the grid's edge"
        first = label(self.inits[0])
        if self.seeds < MIN_SEEDS:
            return f"{first} ends lower in the mean\n(too few seeds for an interval)"
        if not self.decided:
            return "Seeds do not decide\nwhich init ends lower"
        rate = "higher" if self.rates.high < 0 else "lower" if self.rates.low > 0 else ""
        by = f"{self.gap.value:.2g} nats" if self.nats else f"{number(np.exp(self.gap.value))} times"
        return f"{first} ends {by} lower" + f",\nat a {rate} rate" * bool(rate)

    @property
    def sentence(self) -> str:
        """The message with its numbers."""
        at, kind = f"At n = {self.width}", "held-out" if self.nats else "training"
        if not self.inits:
            return f"{at} no init has a learning rate at which all seeds finish."
        first, *others = (label(init) for init in self.inits)
        found = f"a final {kind} loss of {self.losses[0]:.3g} at learning rate {number(self.lrs[0])}"
        if not others:
            return f"{at}, {first} ends with {found}; there is no other init to compare it with."
        second = others[0]
        numbers = f"{found} against {self.losses[1]:.3g} at {number(self.lrs[1])}"
        if self.edges:
            which = listed([label(init) for init in self.edges])
            why = f"as the best rate of {which} is at the grid's edge"
            return f"{at} it is open which init ends lower, {why}: {first} has {numbers} for {second}."
        by = f"{self.gap.value:.2g}{interval(self.gap)} nats lower" if self.nats else f"a factor of {ratio(self.gap)}"
        if self.seeds < MIN_SEEDS:
            few = f"in the mean of {counted(self.seeds, 'seed')}, too few for an interval"
            return f"{at}, {first} ends lower than {second} {few}: {numbers}, {by}."
        if not self.decided:
            return f"{at} the seeds do not decide whether {first} or {second} ends lower: {numbers}, {by}."
        return f"{at}, {first} ends lower than {second}, each at its best rate: {numbers}, {by}."


def contest(grid: Grid, width: int, nats: bool) -> Contest:
    """`nats`: losses are compared by their difference, as those of language models are, and not by their ratio."""
    bests = {init: grid.best(init, width) for init in grid.inits}
    inits = sorted((i for i in bests if np.isfinite(bests[i].log_loss)), key=lambda init: bests[init].log_loss)[:2]
    edges = [init for init in inits if bests[init].edge]
    gap = rates = Estimate(np.nan, np.nan, np.nan)

    def differences(sample: Grid) -> np.ndarray:
        first, second = (sample.best(init, width) for init in inits)
        if first.edge or second.edge:
            return np.full(2, np.nan)
        losses = np.array([first.log_loss, second.log_loss])
        return np.array([np.diff(np.exp(losses) if nats else losses)[0], np.log(second.lr / first.lr)])

    if len(inits) == 2:
        gap, rates = bootstrap(grid, differences)
    losses, lrs = [float(np.exp(bests[i].log_loss)) for i in inits], [bests[i].lr for i in inits]
    return Contest(inits, width, losses, lrs, gap, rates, edges, len(grid.seeds), nats)


@dataclass(frozen=True)
class Trend:
    """How a quantity of an init moves from the narrowest to the widest width at which it is known.

    `slope`: its exponent in the width, of two widths that of the line through both; `count`: at how many it is known.
    """

    init: str
    ends: list[tuple[int, float]]
    slope: Estimate
    count: int

    @property
    def direction(self) -> int:
        """1: grows, -1: falls, 0: the interval does not tell."""
        return 1 if self.slope.low > 0 else -1 if self.slope.high < 0 else 0

    def phrase(self, what: str, symbol: str = "n") -> str:
        """`that of Init[A] falls from 0.03 at n = 128 to 0.004 at n = 2048 (n^-0.76 [-0.80, -0.70])`."""
        subject = f"{what} of {label(self.init)}"
        if self.count == 0:
            return f"{subject} has no value off the grid's edge"
        (narrow, first), (wide, last) = self.ends
        if self.count == 1:
            return f"{subject} is {number(first)} at {symbol} = {narrow}, the only one with a value off the grid's edge"
        verb = {1: "rises", -1: "falls", 0: "goes"}[self.direction]
        fitted = f" ({power(self.slope, symbol)})" if self.count >= MIN_WIDTHS else ""
        return f"{subject} {verb} from {number(first)} at {symbol} = {narrow} to {number(last)} at {symbol} = {wide}{fitted}"


def line(widths: np.ndarray, logs: np.ndarray) -> float:
    """Least-squares slope in log width; nan of fewer than two values."""
    known = np.isfinite(logs)
    return float(np.polyfit(np.log(widths[known]), logs[known], 1)[0]) if known.sum() > 1 else np.nan


def trend(grid: Grid, init: str, measure: Measure) -> Trend:
    """The trend of exp of `measure(grid, init)` (W,)."""
    logs = measure(grid, init)
    known = np.flatnonzero(np.isfinite(logs))
    ends = [(int(grid.widths[i]), float(np.exp(logs[i]))) for i in known[[0, -1]]] if len(known) else []
    nothing = Estimate(np.nan, np.nan, np.nan)
    slope = nothing
    if len(known) > 1:
        [slope] = bootstrap(grid, lambda sample: np.array([line(sample.widths, measure(sample, init))]))
    return Trend(init, ends, slope, len(known))


def steeper(grid: Grid, inits: list[str], measure: Measure) -> Estimate:
    """Slope of the first init minus that of the second, over the same resamples."""
    return bootstrap(
        grid, lambda sample: np.array([-np.diff([line(sample.widths, measure(sample, init)) for init in inits])[0]])
    )[0]


def trends(grid: Grid, measure: Measure, what: str, inits: list[str] | None = None) -> str:
    """A sentence on how a quantity moves with width under each init."""
    if len(grid.widths) == 1:
        return f"With a single width, n = {grid.widths[0]}, these runs do not say how {what} moves with width."
    phrases = [trend(grid, init, measure).phrase("that" if i else what) for i, init in enumerate(inits or grid.inits)]
    return f"With width, {listed(phrases)}."

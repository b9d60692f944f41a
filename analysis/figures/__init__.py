"""One module per figure, named as its experiment: `RECORDS` names the experiments whose runs it shows.

`figure(*frames)` draws their records, and `caption(*frames)` says what is to be seen in them. `AXES`: what the runs vary besides
init, width, learning rate and seed, or the rate, where a figure is of all of them and not of the best; `NEEDS` and `MEASURED`:
the values and columns without which there is nothing to draw; `BASELINE`: whether it shows full finetuning beside adapters.
"""

from importlib import import_module
from pkgutil import iter_modules

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.style import RC
from analysis.tables.records import LAYERS
from analysis.tables.settings import without_baseline

NAMES = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def sources(name: str) -> tuple[str, ...]:
    """The experiments whose records the figure needs."""
    return import_module(f"analysis.figures.{name}").RECORDS


def drawn() -> set[str]:
    """All experiments whose records a figure needs."""
    return {experiment for name in NAMES for experiment in sources(name)}


def trait(name: str, attribute: str) -> tuple:
    """What the figure's module says under this name (AXES, NEEDS, MEASURED); nothing where it does not."""
    return tuple(getattr(import_module(f"analysis.figures.{name}"), attribute, ()))


def axes(experiment: str) -> tuple[str, ...]:
    """What the experiment varies besides init, width, learning rate and seed, as the figure of its name says or, where there is
    none, those of its records."""
    if (own := experiment.removesuffix(LAYERS)) in NAMES:
        return trait(own, "AXES")
    return max((trait(name, "AXES") for name in NAMES if experiment in sources(name)), key=len, default=())


def kept(experiment: str) -> tuple[str, ...]:
    """The measured columns that a record of layers keeps: those that its figures need. Of other records, which keep all, none."""
    if not experiment.endswith(LAYERS):
        return ()
    return tuple(
        dict.fromkeys(column for name in NAMES if experiment in sources(name) for column in trait(name, "MEASURED"))
    )


def draw(name: str, frames: list[pd.DataFrame]) -> Figure:
    """The figure from the records of its experiments, in their order."""
    with mpl.rc_context(RC):
        return import_module(f"analysis.figures.{name}").figure(*shown(name, frames))


def caption(name: str, frames: list[pd.DataFrame]) -> str:
    """What the figure of these records shows, with measured numbers, and of what; a sentence a line."""
    return import_module(f"analysis.figures.{name}").caption(*shown(name, frames))


def shown(name: str, frames: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """What the figure shows of these: without full finetuning, unless it is a figure of that, too."""
    if getattr(import_module(f"analysis.figures.{name}"), "BASELINE", False):
        return frames
    of = {id(frame): without_baseline(frame) for frame in frames}  # one that stands for several stays one
    return [of[id(frame)] for frame in frames]

"""Initializations: where an adapter starts, as pure functions of a `Site`; the docstring of each is its formula.

To add one: a function with `@init(...)` in a module of this package, a YAML file in conf/init, a row in tests/test_inits.py.
Options of its own are a dataclass in `runner.schema`; it gets them as keyword arguments. `init.scale` multiplies what it
returns.
"""

from runner.inits import data, etf, random, spectral
from runner.inits.site import INITS, Init, Shown, Site, Start

__all__ = ["INITS", "Init", "Shown", "Site", "Start", "data", "etf", "random", "spectral"]

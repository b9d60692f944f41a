"""Initializations: where an adapter starts. In: a frozen `Layer`. Out: the two factors; the docstring of each is its formula.

To add one: a function with `@init(...)` in a module of this package, a YAML file in conf/init, a row in tests/test_inits.py.
"""

from runner.inits.base import Calibration, Init, Layer, Start, init

__all__ = ["Calibration", "Init", "Layer", "Start", "init"]

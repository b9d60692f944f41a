"""How a field of the configuration is declared: its type, its meaning and the values that it takes, in one place.

    @dataclass
    class ETFOptions(InitOptions):
        vectors: str = option("of which the frame consists", choices("rows", "columns"))

The value comes from the YAML file of the same name, and a reason for it stands there. Checks, `--help` and the choices in
error messages are read from here.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the field, its value, what is allowed and what to do."""


@dataclass(frozen=True)
class Allowed:
    """The values that a field takes: in words, and as a test. `names`, where they are a list of words."""

    text: str
    accepts: Callable[[Any], bool]
    names: Iterable[str] = ()

    def check(self, field: str, value: Any) -> None:
        """Raise ConfigError unless the field takes the value; null is checked by the field's type."""
        if value is None or self.accepts(value):
            return
        if self.names:
            raise ConfigError(f"{field}={value}: unknown; choose one of {', '.join(self.names)}")
        raise ConfigError(f"{field}={value if value != '' else repr('')}: must be {self.text}")


def choices(*names: str) -> Allowed:
    """One of these words."""
    return Allowed(" | ".join(names), lambda x: x in names, names)


LARGEST = 2**24
POSITIVE = Allowed("a finite number above 0", lambda x: math.isfinite(x) and x > 0)
NOT_NEGATIVE = Allowed("a finite number, 0 or above", lambda x: math.isfinite(x) and x >= 0)
FINITE = Allowed("a finite number", math.isfinite)
FRACTION = Allowed("in [0, 1)", lambda x: 0 <= x < 1)
ABOVE_1 = Allowed("a number above 1", lambda x: x > 1)
AT_LEAST_0 = Allowed("an integer of at least 0", lambda x: x >= 0)
AT_LEAST_1 = Allowed("an integer of at least 1", lambda x: x >= 1)
SEED = Allowed("an integer from 0 to 2^63 - 1", lambda x: 0 <= x < 2**63)


def integers(low: int, high: int) -> Allowed:
    """Integers from low to high."""
    return Allowed(f"an integer from {low} to {high}", lambda x: low <= x <= high)


SIZE = integers(1, LARGEST)


def option(help: str, allowed: Allowed | None = None, *, default: Any = MISSING, per_run: bool = False) -> Any:
    """A dataclass field. `per_run`: runs that differ in it can be trained in one stack."""
    return dataclasses.field(default=default, metadata={"help": help, "allowed": allowed, "per_run": per_run})


def described(config: Any, prefix: str = "") -> Iterable[tuple[str, Any, dataclasses.Field]]:
    """(dotted name, value, declaration) of every field of a configuration that is no group of fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from described(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, field

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
from typing import Any, get_args

from omegaconf import MISSING

# The type of a field that is true or false: of a `bool`, OmegaConf would make any number one.
Switch = Any


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the field, its value, what is allowed and what to do."""


@dataclass(frozen=True)
class Allowed:
    """The values that a field takes: in words, and as a test. `names`, where they are a list of words."""

    text: str
    accepts: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def choices(*names: str) -> Allowed:
    """One of these words."""
    return Allowed(" | ".join(names), lambda x: x in names, names)


LARGEST = 2**24
LARGEST_INTEGER = 2**63 - 1  # that a table can hold
POSITIVE = Allowed("a finite number above 0", lambda x: math.isfinite(x) and x > 0)
NOT_NEGATIVE = Allowed("a finite number, 0 or above", lambda x: math.isfinite(x) and x >= 0)
FRACTION = Allowed("in [0, 1)", lambda x: 0 <= x < 1)
ABOVE_1 = Allowed("a finite number above 1", lambda x: math.isfinite(x) and x > 1)
AT_LEAST_0 = Allowed("an integer from 0 to 2^63 - 1", lambda x: 0 <= x <= LARGEST_INTEGER)
AT_LEAST_1 = Allowed("an integer from 1 to 2^63 - 1", lambda x: 1 <= x <= LARGEST_INTEGER)
SWITCH = Allowed("true or false", lambda x: isinstance(x, bool))
LONGEST_NAME = 255  # bytes, of a file
LONGEST = 200  # characters of a value in a message
# What a field takes of which only the type is declared.
OF_TYPE = {int: "an integer", float: "a number", str: "a text", list[str]: "a list of texts, such as [a,b]"}


def integers(low: int, high: int) -> Allowed:
    """Integers from low to high."""
    return Allowed(f"an integer from {low} to {high}", lambda x: low <= x <= high)


def numbers(low: float, high: float) -> Allowed:
    """Numbers from low to high."""
    return Allowed(f"a number from {low} to {high}", lambda x: low <= x <= high)


SIZE = integers(1, LARGEST)


def option(
    help: str,
    allowed: Allowed | None = None,
    *,
    default: Any = MISSING,
    per_run: bool = False,
    before: Any = MISSING,
    only_with: str | None = None,
) -> Any:
    """A dataclass field. `per_run`: runs that differ in it can be trained in one stack. `before`: what it is of runs from before
    it was there. `only_with`: a field of the same group without which it says nothing."""
    metadata = {"help": help, "allowed": allowed, "per_run": per_run, "only_with": only_with}
    if before is not MISSING:
        default, metadata["before"] = before, before
    return dataclasses.field(default=default, metadata=metadata)


def check_value(field: str, value: Any, declared: dataclasses.Field) -> None:
    """Raise ConfigError unless the field takes the value, whose type is right."""
    if value is None and type(None) in get_args(declared.type):
        return
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and not text.isprintable():
            raise ConfigError(f"{field}={shown(value)}: has characters that cannot be printed")
        if isinstance(text, str) and any(len(part.encode()) > LONGEST_NAME for part in text.split("/")):
            raise ConfigError(f"{field}={shown(value)}: is longer than a name may be, {LONGEST_NAME} bytes")
    if (allowed := declared.metadata.get("allowed")) and not allowed.accepts(value):
        raise refusal(field, value, declared)


def refusal(field: str, value: Any, declared: dataclasses.Field) -> ConfigError:
    """That the field does not take the value, and what it takes."""
    if dataclasses.is_dataclass(declared.type):
        inner = ", ".join(f"{field}.{each.name}" for each in dataclasses.fields(declared.type))
        return ConfigError(f"{field}={shown(value)}: is a group of fields; set {inner}")
    allowed, kinds = declared.metadata.get("allowed"), get_args(declared.type)
    null = ", or null" if type(None) in kinds else ""
    if allowed and allowed.names:
        return ConfigError(f"{field}={shown(value)}: unknown; choose one of {', '.join(allowed.names)}{null}")
    text = allowed.text if allowed else OF_TYPE[kinds[0] if null else declared.type]
    return ConfigError(f"{field}={shown(value)}: must be {text}{null}")


def shown(value: Any) -> str:
    """A value as the command line has it, within a line."""
    if isinstance(value, list | tuple):
        text = f"[{','.join(map(shown, value))}]"
    elif isinstance(value, dict):
        text = f"{{{','.join(f'{shown(key)}:{shown(inner)}' for key, inner in value.items())}}}"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = str(value) if str(value).isprintable() and value != "" else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def described(config: Any, prefix: str = "") -> Iterable[tuple[str, Any, dataclasses.Field]]:
    """(dotted name, value, declaration) of every field of a configuration that is no group of fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from described(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, field

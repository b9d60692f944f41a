"""Errors of Hydra and OmegaConf as one clear message: the field, what is wrong with it, what is allowed."""

import re
import traceback

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from runner.config.options import ConfigError


def is_about_input(error: Exception) -> bool:
    """Whether the error is one of what the user asked for, rather than of the program.

    Hydra and its parsers report some malformed overrides and files (`task=3`, bad YAML) as errors of any kind.
    """
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").split(".")[0] in ("hydra", "omegaconf", "yaml", "antlr4")


def explain(error: Exception) -> str:
    """The message."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as an override; put quotes around a value with special characters, "
            "once for the shell and once for Hydra: \"key='value'\""
        )
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)'", str(error)):
        return (
            f"{ambiguous[1]}: several values make a sweep, which takes -m (--multirun): python -m runner -m …; for a list write "
            "key=[a,b]"
        )
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: unknown; choose one of {', '.join(error.options)}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        known = ", ".join(map(str, cause.parent_node or []))
        return f"unknown key {cause.full_key!r}" + (f"; the fields there are {known}" if known else "")
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {str(cause.msg).splitlines()[0]}"
    return f"{error or type(error).__name__}"

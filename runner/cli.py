"""The command line. `python -m runner [key=value …]`: train one run, or with several values or an experiment, a sweep of them."""

import errno
import math
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from runner.config import CONF, from_hydra, register
from runner.schema import ConfigError
from runner.sweep import execute


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(cfg: DictConfig) -> float:
    """One run. Returns its final loss, which a sweeper that optimizes (optuna's) takes for its objective.

    Sweeps go through `hydra_plugins.stack_sweeper`, which sees all their configurations at once.
    """
    with clear_errors():  # here too, because Hydra wraps what a job raises
        results = execute([from_hydra(cfg)])
        if results.exit_code:
            sys.exit(results.exit_code)
        loss = results.rows[0]["loss"]
        return math.inf if loss is None else loss  # it diverged


def main() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the message is ours
    register()
    with clear_errors():
        run()


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn every error in what the user asked for into one message on stderr and exit code 2."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC):
            # Whoever read our output has stopped, or its disk is full; the runs are stored.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if error.errno == errno.ENOSPC:
                print(f"error: cannot print the report ({error.strerror}); the runs are stored", file=sys.stderr)
            sys.exit(1)
        if not isinstance(error, ConfigError | HydraException | OmegaConfBaseException) and not _raised_by_hydra(error):
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)


def _raised_by_hydra(error: Exception) -> bool:
    """Hydra and its parsers report some malformed overrides and files (`task=3`, bad YAML) as errors of any kind."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").split(".")[0] in ("hydra", "omegaconf", "yaml", "antlr4")


def explain(error: Exception) -> str:
    """One clear message: the field, what is wrong with it, what is allowed."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as an override; put quotes around a value with special characters, "
            "once for the shell and once for Hydra: \"key='value'\""
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

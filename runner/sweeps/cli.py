"""The command line. `python -m runner [key=value …]`: train one run, or with several values or an experiment, a sweep of them."""

import errno
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import hydra
from omegaconf import DictConfig

from runner import pack, status
from runner.config.command import read
from runner.config.compose import CONF, from_hydra, register
from runner.config.errors import explain, is_about_input
from runner.config.experiments import register_new_names
from runner.config.help import help_text
from runner.sweeps.compose import compose_sweep
from runner.sweeps.execute import execute
from runner.sweeps.forecast import forecast
from runner.sweeps.report import print_report
from runner.sweeps.search import Request

OTHERS = {"pack": pack.main, "status": status.main}  # than to train: `python -m runner status …`


def run(asked: DictConfig | Request, dry: bool = False) -> float:
    """One run as Hydra composed it, or what a sweep asks for, from `hydra_plugins.stack_sweeper`; `dry`: only say what it is.

    Returns the final loss of the first, which a sweeper that optimizes (optuna's) takes for its objective.
    """
    with clear_errors():  # here too, because Hydra wraps what a job raises
        request = asked if isinstance(asked, Request) else Request([from_hydra(asked)])
        loss = announce(request) if dry else train(request)
        return math.inf if loss is None else loss  # it diverged


def announce(request: Request) -> None:
    """Say what would be trained."""
    with printing("the forecast"):
        print(forecast(request))


def train(request: Request) -> float | None:
    """Train and report; the final loss of the first. Exits with what the results say if not all is well."""
    results = execute(request.runs, request.searches)
    with printing("the report", "; the runs are stored"):
        print_report(results, searched=list(dict.fromkeys(search.experiment for search in request.searches)))
    if results.exit_code:
        sys.exit(results.exit_code)
    return results.rows[0]["loss"]


def main() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we format the message
    if other := OTHERS.get(sys.argv[1] if sys.argv[1:] else ""):
        with printing("the answer"):
            code = other(sys.argv[2:])
        sys.exit(code)
    register()
    with clear_errors():
        command = read(sys.argv[1:])
        sys.argv[1:] = command.arguments
        register_new_names(command)
        if command.flags.get("help"):
            with printing("the fields"):
                print(help_text(command))
            return
        dry = bool(command.flags.get("dry_run"))
        if len(command.values("experiment")) > 1:  # sweeps, each with axes of its own
            run(compose_sweep(command), dry)
        else:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(lambda asked: run(asked, dry))()


@contextmanager
def printing(what: str, but: str = "") -> Iterator[None]:
    """Within, whoever reads our output may stop, or its disk be full: no traceback, and exit code 1."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            print(f"error: cannot print {what} ({error.strerror}){but}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn every error in what the user asked for into one message on stderr and exit code 2."""
    try:
        yield
    except Exception as error:
        if not is_about_input(error):
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)

"""Options that several commands of `analysis` have: which runs they are about."""

import argparse
from pathlib import Path

from analysis.tables.where import Condition
from runner.config.schema import EXPERIMENT


def add(parser: argparse.ArgumentParser, experiment: str, default: str | None = None) -> None:
    """Declare --experiment, with this help, --outputs and --where."""
    parser.add_argument("--experiment", default=default, help=experiment)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="root of runs, records and figures")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FIELD=VALUE[,VALUE]",
        help="use only runs with this in their configuration, such as adapter.rank=8; may be given again",
    )


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The options, with conditions in `where`. Exits with 2 where one is none."""
    options = parser.parse_args(arguments)
    if options.experiment is not None and not EXPERIMENT.accepts(options.experiment):
        parser.error(f"--experiment {options.experiment!r}: must be {EXPERIMENT.text}; see {options.outputs / 'runs'}")
    try:
        options.where = [Condition.parse(argument) for argument in options.where]
    except ValueError as error:
        parser.error(f"--where {error}")
    return options

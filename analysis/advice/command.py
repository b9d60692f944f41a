"""`python -m analysis advise`: which way to finetune, at which rate, how sure, from the runs of an experiment."""

import argparse
import json
from pathlib import Path

import pandas as pd

from analysis import files, style
from analysis import options as shared
from analysis.advice import figure, sizes, text
from analysis.advice.answers import questions
from analysis.console import Console
from analysis.grid import NotShown
from analysis.tables import load, records, where
from analysis.tables.records import MissingRecords
from runner.config.options import SIZE

DESCRIPTION = """\
Which way to finetune, at which learning rate, how sure: from the runs of `python -m runner experiment=advise …`, or of any
sweep over learning rates (--experiment). Runs that differ in adapter, init or optimizer are ways to compare; each combination
of all other fields is a question of its own."""


def answer(options: argparse.Namespace, console: Console) -> None:
    """Print the answers, and write them as a figure and as JSON. Raises MissingRecords, NotShown and OSError."""
    runs = chosen(options.outputs, options.experiment, options.where)
    if asked := {option: getattr(options, option) for option in sizes.OPTIONS if getattr(options, option) is not None}:
        for option, size in asked.items():
            carry_over(runs, sizes.OPTIONS[option], size, options.outputs, console)
        return
    found = questions(runs)
    for question in found:
        for line in text.told(question):
            console.say(line)
    folder = options.outputs / "figures" / options.experiment
    drawn = found[: figure.MOST]
    style.save(figure.draw(drawn), folder / "advise", "\n".join(text.verdict(question) for question in drawn))
    path = folder / "advise.json"
    with files.written(path) as new:
        new.write_text(json.dumps([text.data(question) for question in found], indent=1) + "\n")
    left = f", of the first {len(drawn)} questions" if len(drawn) < len(found) else ""
    console.say(f"drew {folder / 'advise'}.pdf and .png{left}; all numbers: {path}")


def carry_over(runs: pd.DataFrame, field: str, size: int, outputs: Path, console: Console) -> None:
    """Print the rate of every way at a size; of those that have none, why."""
    for name, part in sizes.ways(runs, field):
        try:
            console.say(sizes.told(sizes.prediction(name, part, field, size, outputs)))
        except (NotShown, MissingRecords) as reason:
            console.fail(f"error: {reason}")


def chosen(outputs: Path, experiment: str, conditions: list[where.Condition]) -> pd.DataFrame:
    """The runs of an experiment that fulfil the conditions, or its record's where there are none. Raises MissingRecords."""
    folder = records.runs_folder(outputs, experiment)
    try:
        runs = load.runs(folder)
    except FileNotFoundError:
        if not records.record_path(outputs, experiment).exists() or experiment.endswith(records.LAYERS):
            raise MissingRecords(
                f"{folder}: holds no finished runs; train some: python -m runner experiment=advise task=…, or name others with "
                "--experiment"
            ) from None
        runs = load.per_run(records.read(outputs, experiment))
    return where.select(runs, conditions, experiment)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis advise", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared.add(parser, "whose runs to ask; default: advise", "advise")
    for option, field in sizes.OPTIONS.items():
        help = f"the rate for a {field} that was not trained, carried over from those that were"
        parser.add_argument(f"--{option}", type=_size, metavar="SIZE", help=help)
    options = shared.parse(parser, arguments)
    return options


def _size(argument: str) -> int:
    if not argument.isdecimal() or not SIZE.accepts(int(argument)):
        raise argparse.ArgumentTypeError(f"{argument!r} must be {SIZE.text}")
    return int(argument)


def answers_of(runs: pd.DataFrame) -> list[str]:
    """What the runs of a sweep say, for the end of its report."""
    return [line for question in questions(runs) for line in text.told(question)]

"""`python -m analysis report`: one HTML file of an experiment's runs, claims and figures, to open in a browser."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from analysis import files
from analysis import options as shared
from analysis.console import Console
from analysis.grid import NotShown
from analysis.page import content
from analysis.tables import where
from analysis.tables.records import LAYERS, MissingRecords
from analysis.tables.tables import Tables
from runner.config.schema import EXPERIMENT

DESCRIPTION = """\
One HTML file to click through: loss against learning rate, the curves of every run, claims, advice, runs and figures. It needs no
network and no server. Without --experiment it holds every experiment that has runs or records."""
NEEDED = ("altair", "vl_convert", "jinja2")


def answer(options: argparse.Namespace, console: Console) -> None:
    """Write the page. Raises MissingRecords, NotShown and OSError."""
    if lacking := [name for name in NEEDED if not find_spec(name)]:
        raise NotShown(f"report needs {lacking[0]}, which is not installed; pip install 'lora-init-dynamics[report]'")
    from analysis.page import render

    tables = Tables(options.outputs, options.where, console.say)
    with render.libraries() as libraries:
        found = gathered(options, tables, console)
        folder = files.destination(options)
        pictures = content.pictures(options.outputs, folder, [each.name for each in found])
        chosen = " and ".join(map(str, options.where))
        page = render.page(found, pictures, options.outputs, chosen, libraries())
    path = options.out or (folder if options.experiment or options.where else options.outputs) / "report.html"
    with files.written(path) as new:
        new.write_text(page, encoding="utf-8")
    count = sum(len(each.data["runs"]["id"]) for each in found)
    console.say(f"{path}: {count} runs, {len(page.encode()) / 1e6:.1f} MB; open it in a browser")


def gathered(options: argparse.Namespace, tables: Tables, console: Console) -> list[content.Content]:
    """Of the experiment that is asked for, or of all. Raises MissingRecords and NotShown where there is none."""
    if options.experiment:
        try:
            return [content.content(options.experiment, tables)]
        except MissingRecords as reason:
            there = experiments(options.outputs)
            if options.experiment in there or not there:
                raise
            raise MissingRecords(f"{reason}; there are {', '.join(there)}") from reason
    found = []
    for name in experiments(options.outputs):
        try:
            found.append(content.content(name, tables))
        except (MissingRecords, NotShown) as reason:
            tell = console.say if isinstance(reason, where.NoSuchRuns) else console.fail
            tell(f"left out {name}: {reason}")
    if not found:
        raise MissingRecords(f"{options.outputs} holds neither runs nor records{where.chosen(options.where)}")
    return found


def experiments(outputs: Path) -> list[str]:
    """Those with records or runs."""
    recorded = {path.stem for path in (outputs / "records").glob("*.parquet") if not path.stem.endswith(LAYERS)}
    trained = {path.name for path in (outputs / "runs").glob("*") if path.is_dir()}
    return sorted(name for name in recorded | trained if EXPERIMENT.accepts(name))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis report", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared.add(parser, "whose runs to show; default: all experiments, to choose from in the page")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: report.html in the outputs, or in the folder of the experiment's figures",
    )
    options = shared.parse(parser, arguments)
    if options.experiment is not None and options.experiment.endswith(LAYERS):
        parser.error(f"--experiment {options.experiment}: leave out {LAYERS!r}, which names a record of layers")
    return options

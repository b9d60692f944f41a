"""`python -m analysis [figure …]`: distill fresh runs into records, draw every figure that has records, print the claims.

With --experiment: the figures and claims of any folder of runs. With --where: those of some of the runs.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis import figures, files, gallery, report, style
from analysis import options as shared
from analysis.advice import command as advice
from analysis.console import Console
from analysis.grid import NotShown
from analysis.page import command as page
from analysis.tables import needs
from analysis.tables.load import DamagedRun
from analysis.tables.records import LAYERS, DamagedRecord, MissingRecords
from analysis.tables.settings import LeftOut
from analysis.tables.tables import Tables
from analysis.tables.where import NoSuchRuns, none_anywhere
from runner.core import streams

COMMANDS = {"advise": advice, "report": page}


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0; 1 where something that is there could not be shown; 2 where what was asked for is missing, unknown or
    cannot be written; 130 after Ctrl-C."""
    arguments, console = sys.argv[1:] if arguments is None else arguments, Console()
    command = COMMANDS.get(arguments[0]) if arguments else None
    options = command.parse(arguments[1:]) if command else parse(arguments)

    def warned(message: Warning | str, category: type[Warning], *rest: object, **more: object) -> None:
        (console.fail if issubclass(category, DamagedRun) else console.warn)(f"warning: {message}")

    try:
        with warnings.catch_warnings():
            for kind in (LeftOut, DamagedRun):
                warnings.simplefilter("always", kind)
            warnings.showwarning = warned
            (command.answer if command else build)(options, console)
    except OSError as error:
        console.fail(f"error: {error.filename or options.outputs}: {error.strerror or error}")
        return 2
    except (NotShown, MissingRecords) as error:
        console.fail(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        console.fail("interrupted")
        return 130
    return int(console.failed)


def build(options: argparse.Namespace, console: Console) -> None:
    """Draws and evaluates what the options name. Raises MissingRecords and NotShown where there is nothing of it."""
    tables = Tables(options.outputs, options.where, console.say)
    gathered: dict[str, pd.DataFrame] = {}
    left_out: dict[str, MissingRecords | NotShown] = {}
    if options.experiment and not options.figures:  # raises here rather than at each figure
        gathered[report.ANY] = needs.get(report.ANY, options.experiment, report.ANY, tables)
    for name in sorted(options.figures or figures.NAMES, key=figures.sources):
        found = {}
        try:
            for source, table in gather(name, options.experiment, tables):
                found[source] = table  # where another is missing the claims still have it
            draw(name, found, options, console)
        except (MissingRecords, NotShown) as reason:
            if options.figures:
                raise
            left_out[name] = reason
            if options.experiment:  # whose runs stand for those of a figure only where they can fill it
                continue
        gathered |= {source: table for source, (_, table) in found.items()}
    conclude(left_out, bool(gathered), options, console)
    if not options.figures:
        evaluate(gathered, options, console)


def gather(name: str, experiment: str | None, tables: Tables) -> Iterator[tuple[str, tuple[str, pd.DataFrame]]]:
    """Each source of the figure, with the experiment whose runs stand there and their table."""
    for source in figures.sources(name):
        ours = experiment + LAYERS * source.endswith(LAYERS) if experiment else source
        yield source, (ours, needs.get(name, ours, source, tables))


def draw(name: str, found: dict[str, tuple[str, pd.DataFrame]], options: argparse.Namespace, console: Console) -> None:
    """Saves the figure, and says of which learning rates it is not sure."""
    shown, has_own = {}, bool(figures.trait(name, "AXES"))
    for (
        experiment,
        table,
    ) in found.values():  # one may stand for several: along the figure's own axes, where it has some
        shown[experiment] = shown.get(experiment, table) if has_own else table
    frames, folder = list(shown.values()), files.destination(options)
    with needs.checked(name, shown, options.outputs, options.where):
        figure, caption = figures.draw(name, frames), figures.caption(name, frames)
    style.save(figure, folder / name, caption)
    console.say(f"drew {folder / name}.pdf, .png and .md" + f"\n{caption}" * bool(options.figures))
    for source, (experiment, table) in found.items():
        for sentence in () if experiment.endswith(LAYERS) else report.flags(table, figures.axes(source)):
            console.say(f"flagged: {sentence}")


def conclude(
    left_out: dict[str, MissingRecords | NotShown], drew: bool, options: argparse.Namespace, console: Console
) -> None:
    """Says why figures were left out; raises where nothing is left. It is a failure where an experiment's record cannot give
    the experiment's own figure, but for too few runs."""
    chosen = options.experiment or options.where
    for name, reason in left_out.items():
        if isinstance(reason, DamagedRecord):
            console.fail(f"skipped: {reason}")
        elif isinstance(reason, NoSuchRuns) and not options.experiment:
            continue  # of an experiment that nobody named
        elif isinstance(reason, MissingRecords) and not options.experiment:
            if drew:
                console.say(f"skipped: {reason}")
        else:
            tell = console.say if chosen or isinstance(reason, needs.TooFew) else console.fail
            tell(f"left out {name}: {str(reason).removeprefix(f'{name} ')}")
    if drew:
        return
    if nowhere := [reason for reason in left_out.values() if isinstance(reason, NoSuchRuns)]:
        raise none_anywhere(nowhere, options.where)
    raise MissingRecords(f"{options.outputs} holds neither runs nor records of any figure")


def evaluate(gathered: dict[str, pd.DataFrame], options: argparse.Namespace, console: Console) -> None:
    """Prints the claims that apply to the tables, and writes them to files."""
    chosen = options.experiment or options.where
    tell = console.say if chosen else console.fail
    if not (rows := report.claims_of(gathered, options.outputs, options.where, tell)):
        return
    table, path = report.markdown(rows), (files.destination(options) if chosen else options.outputs) / "claims.md"
    with files.written(path) as new:
        new.write_text(table + "\n")
    console.say(f"\n{table}\n\nclaims: {path}")
    if options.publish:
        report.put_between(options.publish, report.START, report.END, table)
        gallery.write(options.publish.with_name("figures.md"), options.outputs)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", metavar="figure", help=f"default: all of {', '.join(figures.NAMES)}")
    shared.add(parser, "use this experiment's runs, and draw into a folder of that name; default: all they can fill")
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="FILE",
        help="also write the claims between the markers of this file, and figures.md, all figures with captions, beside it",
    )
    options = shared.parse(parser, arguments)
    if unknown := [name for name in options.figures if name not in figures.NAMES]:
        parser.error(f"unknown figure {unknown[0]!r}; choose from {', '.join(figures.NAMES)}")
    if options.publish and (options.figures or options.experiment or options.where):
        parser.error("--publish is for the claims of all experiments; leave out figures, --experiment and --where")
    if options.publish and not report.has_markers(options.publish):
        parser.error(f"--publish {options.publish}: must be a file with the lines {report.START} and {report.END}")
    return options


if __name__ == "__main__":
    streams.prepare()
    sys.exit(main())

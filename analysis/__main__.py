"""`python -m analysis [figure …]`: distill fresh runs into records, draw every figure that has records, print the claims.

With --experiment: the figures and claims of any folder of runs. With --where: those of some of the runs.
"""

import argparse
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis import figures, gallery, report, style
from analysis.grid import NotShown
from analysis.tables import needs
from analysis.tables.load import DamagedRun
from analysis.tables.records import LAYERS, MissingRecords
from analysis.tables.settings import LeftOut
from analysis.tables.tables import Tables
from analysis.tables.where import Condition, NoSuchRuns, none_anywhere
from runner.core import streams

Say = Callable[[str], None]


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 where something named is missing, unknown or cannot be written."""
    options = parse(arguments)
    said: set[str] = set()

    def say(sentence: str, error: bool = False) -> None:
        """Prints a sentence once: several figures are made from the same runs."""
        if sentence not in said:
            print(sentence, file=sys.stderr if error else sys.stdout)
            said.add(sentence)

    try:
        with warnings.catch_warnings():
            for kind in (LeftOut, DamagedRun):
                warnings.simplefilter("always", kind)
            warnings.showwarning = lambda message, *rest, **more: say(f"warning: {message}", error=True)
            build(options, say)
    except OSError as error:
        say(f"error: {error.filename or options.outputs}: {error.strerror or error}", error=True)
        return 2
    except (NotShown, MissingRecords) as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt:
        say("interrupted", error=True)
        return 130
    return 0


def build(options: argparse.Namespace, say: Say) -> None:
    """Draws and judges what the options name. Raises MissingRecords and NotShown where there is nothing of it."""
    tables, judged = Tables(options.outputs, options.where, say), {}
    if options.experiment and not options.figures:
        judged[report.ANY] = tables.get(options.experiment, ())  # raises here rather than at each figure
    nowhere: list[NoSuchRuns] = []
    for name in sorted(options.figures or figures.NAMES, key=figures.sources):
        try:
            found = gather(name, options.experiment, tables)
            if not options.experiment:
                judged |= {source: table for source, (_, table) in found.items()}
            draw(name, found, options, say)
            judged |= {source: table for source, (_, table) in found.items()}
        except (MissingRecords, NotShown) as reason:
            if options.figures:
                raise
            if isinstance(reason, NoSuchRuns) and not options.experiment:
                nowhere.append(reason)
            elif isinstance(reason, MissingRecords) and not options.experiment:
                say(f"skipped: {reason}")
            else:
                say(f"left out {name}: {str(reason).removeprefix(f'{name} ')}")
    if nowhere and not judged:
        raise none_anywhere(nowhere, options.where)
    if not judged:
        raise MissingRecords(f"{options.outputs} holds neither runs nor records of any figure")
    if not options.figures:
        judge(judged, options, say)


def gather(name: str, experiment: str | None, tables: Tables) -> dict[str, tuple[str, pd.DataFrame]]:
    """Source of the figure -> the experiment whose runs stand there, and their table."""
    found = {}
    for source in figures.sources(name):
        ours = experiment + LAYERS * source.endswith(LAYERS) if experiment else source
        with needs.missing_columns_told(name, {ours: None}, tables.outputs):
            found[source] = ours, tables.get(ours, figures.axes(source))
    return found


def draw(name: str, found: dict[str, tuple[str, pd.DataFrame]], options: argparse.Namespace, say: Say) -> None:
    """Saves the figure, and says of which learning rates it is not sure."""
    shown = {experiment: table for experiment, table in found.values()}  # one, where one stands for several
    frames, folder = list(shown.values()), destination(options)
    with needs.checked(name, shown, options.outputs):
        figure, caption = figures.draw(name, frames), figures.caption(name, frames)
    style.save(figure, folder / name, caption)
    print(f"drew {folder / name}.pdf, .png and .md" + f"\n{caption}" * bool(options.figures))
    for source, (experiment, table) in found.items():
        for sentence in () if experiment.endswith(LAYERS) else report.flags(table, figures.axes(source)):
            say(f"flagged: {sentence}")


def judge(judged: dict[str, pd.DataFrame], options: argparse.Namespace, say: Say) -> None:
    """Prints the claims that apply to the tables, and writes them to files."""
    chosen = options.experiment or options.where
    if not (rows := report.claims_of(judged, options.outputs, say if chosen else None)):
        return
    table, folder = report.markdown(rows), destination(options) if chosen else options.outputs
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.md").write_text(table + "\n")
    print(f"\n{table}\n\nclaims: {folder / 'claims.md'}")
    if options.publish:
        report.put_between(options.publish, report.START, report.END, table)
        gallery.write(options.publish.with_name("figures.md"), options.outputs)


def destination(options: argparse.Namespace) -> Path:
    """The folder for figures: one for each experiment that is named, and in it one for each choice of runs."""
    folder = options.outputs / "figures" / (options.experiment or "")
    chosen = " ".join(map(str, options.where))
    return folder / re.sub(r"[^\w.=,+-]+", "_", chosen)[:100] if chosen else folder


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", metavar="figure", help=f"default: all of {', '.join(figures.NAMES)}")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="root of runs, records and figures")
    parser.add_argument(
        "--experiment",
        help="use this experiment's runs, and draw into a folder of that name; default: all they can fill",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FIELD=VALUE[,VALUE]",
        help="use only runs with this in their configuration, such as adapter.rank=8; may be given again",
    )
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="FILE",
        help="also write the claims between the markers of this file, and figures.md, all figures with captions, beside it",
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.figures if name not in figures.NAMES]:
        parser.error(f"unknown figure {unknown[0]!r}; choose from {', '.join(figures.NAMES)}")
    if options.experiment is not None and Path(options.experiment).name != options.experiment:
        parser.error(f"--experiment {options.experiment!r}: must be the name of a folder in {options.outputs / 'runs'}")
    try:
        options.where = [Condition.parse(argument) for argument in options.where]
    except ValueError as error:
        parser.error(f"--where {error}")
    if options.publish and (options.figures or options.experiment or options.where):
        parser.error("--publish is for the claims of all experiments; leave out figures, --experiment and --where")
    if options.publish and not report.has_markers(options.publish):
        parser.error(f"--publish {options.publish}: must be a file with the lines {report.START} and {report.END}")
    return options


if __name__ == "__main__":
    streams.prepare()
    sys.exit(main())

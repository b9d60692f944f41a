"""`python -m analysis [figure …]`: distill fresh runs into records, draw every figure that has records, print the claims."""

import argparse
import sys
import warnings
from pathlib import Path

from analysis import figures, records, report, style
from analysis.grid import Mixture, NotShown


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 where something named is missing, unknown or cannot be written."""
    options = parse(arguments)
    try:
        return build(options)
    except OSError as error:
        print(f"error: {error.filename or options.outputs}: {error.strerror or error}", file=sys.stderr)
        return 2
    except NotShown as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def build(options: argparse.Namespace) -> int:
    warnings.showwarning = lambda message, *rest, **more: print(f"warning: {message}", file=sys.stderr)
    outputs = options.outputs
    names = options.figures or figures.NAMES
    sources = {name: figures.sources(name) for name in names}
    if options.experiment:
        sources = {
            name: tuple(dict.fromkeys(options.experiment + records.LAYERS * s.endswith(records.LAYERS) for s in group))
            for name, group in sources.items()
        }
    frames = {}
    for experiment in sorted({source for group in sources.values() for source in group}):
        axes = figures.axes(experiment if experiment in figures.drawn() else figures.sources(names[0])[0])
        try:
            if done := records.refresh(outputs, experiment, axes):
                print(done)
            frames[experiment] = records.read(outputs, experiment)
        except (records.MissingRecords, Mixture) as error:
            reason, folder = error, outputs / "runs" / experiment
            if experiment not in figures.drawn() and not folder.exists():
                reason = f"{folder}: is not there; name a folder of {folder.parent} with finished runs"
            if options.figures or options.experiment:
                print(f"error: {reason}", file=sys.stderr)
                return 2
            print(f"skipped: {reason}")
            continue
        for sentence in () if experiment.endswith(records.LAYERS) else report.flags(frames[experiment], axes):
            print(f"flagged: {sentence}")
    if not frames:
        print(f"error: {outputs} holds neither runs nor records of any figure", file=sys.stderr)
        return 2
    folder = outputs / "figures" / options.experiment if options.experiment else outputs / "figures"
    for name, group in sources.items():
        if all(source in frames for source in group):
            shown = [frames[source] for source in group]
            caption = figures.caption(name, shown)
            style.save(figures.draw(name, shown), folder / name, caption)
            print(f"drew {folder / name}.pdf, .png and .md" + f"\n{caption}" * bool(options.figures))
    if options.figures or options.experiment:
        return 0
    rows = report.all_claims(outputs)
    if rows:
        table = report.markdown(rows)
        (outputs / "claims.md").write_text(table + "\n")
        print(f"\n{table}\n\nclaims: {outputs / 'claims.md'}")
        if options.readme:
            report.put_between(options.readme, report.START, report.END, table)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="figure", help=f"default: all of {', '.join(figures.NAMES)}")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="root of runs, records and figures")
    parser.add_argument("--experiment", help="draw the figures from this experiment's runs, into a folder of that name")
    parser.add_argument("--readme", type=Path, help="also write the claims table between the markers of this file")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.figures if name not in figures.NAMES]:
        parser.error(f"unknown figure {unknown[0]!r}; choose from {', '.join(figures.NAMES)}")
    if options.experiment is not None and Path(options.experiment).name != options.experiment:
        parser.error(f"--experiment {options.experiment!r}: must be the name of a folder in {options.outputs / 'runs'}")
    if options.readme and not (options.readme.is_file() and report.START in options.readme.read_text()):
        parser.error(f"--readme {options.readme}: must be a file with a line {report.START}")
    return options


if __name__ == "__main__":
    sys.exit(main())

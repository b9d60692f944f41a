"""`python -m analysis.verify`: train some of the recorded runs again, and compare their numbers with the records.

A run's numbers are a function of its configuration. On the fused engine they are so to the bit, on every x86-64 processor
with FMA: a run that starts where the record's did must be the record's to its end. On autograd's engine library products
round as the processor has it, and training magnifies that: such a run must start within START of the record, and end within
the interval in which another seed of the same setting would be expected.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from analysis.grid import AXES, is_setting, log_losses
from analysis.tables.load import load, per_run
from analysis.tables.records import LAYERS, MissingRecords, read, rounded
from analysis.tables.schema import is_measured
from runner.config import Config, ConfigError, command
from runner.config.identity import defining, run_id, with_values
from runner.config.registry import GROUPS
from runner.config.resources import resolve_engine
from runner.core import streams
from runner.core.messages import first_line
from runner.sweeps.compose import compose_sweep
from runner.sweeps.execute import execute

SHARE = 0.01
# Relative, before the first update. Pretraining magnifies rounding, too: under another processor's kernels losses on a base of
# width 128 moved by up to 1.3% and gradient norms by 6%, and by 4e-5 on narrower ones.
START = {"loss": 0.02, "gradient norm": 0.1}
CONFIDENCE = 0.999  # of the interval for one more seed: of a thousand sound runs, one is outside
LOSSES = ("train/loss", "eval/loss")
OWN = ("task", "adapter", "init", "optimizer")  # groups of fields that a record holds
SAME, CLOSE, DIFFERENT = "to the bit", "within tolerance", "different"


@dataclass(frozen=True)
class Comparison:
    """Of a run trained again with its record: how they agree, the largest relative difference of a loss, and what is wrong."""

    experiment: str
    run: str
    verdict: str
    difference: float = 0.0
    reason: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, 1 where a run differs from its record, 2 where there is nothing to compare."""
    options = parse(arguments)
    try:
        found = list(verify(options.outputs, options.share, options.seed, options.experiment, options.bases))
    except (ConfigError, MissingRecords) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    for one in found:
        if one.verdict == DIFFERENT:
            print(f"different: {one.experiment} {one.run}: {one.reason}")
    table = pd.crosstab([one.experiment for one in found], [one.verdict for one in found])
    table = table.reindex(columns=[SAME, CLOSE, DIFFERENT], fill_value=0).rename_axis(index=None, columns=None)
    worst = pd.Series([one.difference for one in found]).groupby([one.experiment for one in found]).max()
    print(table.assign(**{"largest difference of a loss": worst.map("{:.2g}".format)}).to_string())
    return int(any(one.verdict == DIFFERENT for one in found))


def verify(outputs: Path, share: float, seed: int, names: Iterable[str], bases: Path) -> Iterator[Comparison]:
    """Trains a share of the runs of each record under `outputs` again, at least one each, drawn by `seed`."""
    found = sorted(path.stem for path in (outputs / "records").glob("*.parquet") if not path.stem.endswith(LAYERS))
    records = {name: read(outputs, name) for name in (names or found)}
    if not records:
        raise MissingRecords(f"{outputs}: holds no records; make them with `make reproduce`")
    with tempfile.TemporaryDirectory() as folder:
        [template] = compose_sweep(command.read([f"outputs={folder}", f"bases={bases}"])).runs
        chosen = {name: drawn(record, share, seed) for name, record in records.items()}
        configs = [config_of(row, template) for table in chosen.values() for _, row in table.iterrows()]
        fused = {run_id(config) for config in configs if resolve_engine(config) == "fused"}
        results = execute(configs)
        if results.exit_code == 130:
            raise KeyboardInterrupt
        failed = {row["run_id"]: row["error"] for row in results.rows if row["error"]}
        for name, table in chosen.items():
            sound = set(table["run_id"]) - set(failed)
            again = load(Path(folder) / "runs" / table["experiment"].iloc[0]) if sound else pd.DataFrame()
            for run in table["run_id"]:
                if run in failed:
                    yield Comparison(name, run, DIFFERENT, math.inf, failed[run])
                else:
                    yield compare(name, run, records[name], again[again["run_id"] == run], run in fused)


def drawn(record: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """The share of a record's runs, at least one, a row each."""
    runs = record.drop_duplicates("run_id").sort_values("run_id")
    return runs.sample(max(1, round(share * len(runs))), random_state=seed).sort_index()


def config_of(row: pd.Series, template: Config) -> Config:
    """The configuration of a recorded run; where it is kept is the template's. Raises ConfigError if its id is not the run's."""
    what = f"{row['run_id']} of {row.get('experiment')}"
    try:
        for listed in (False, True):
            groups = {
                group: _group(row, group, parts.options, listed) for group, parts in GROUPS.items() if group in OWN
            }
            plain = {name: field for name, _, field in defining(template) if name.partition(".")[0] not in OWN}
            others = {name: _cell(row, name, field, listed) for name, field in plain.items()}
            config = with_values(template, groups | others | {"experiment": row["experiment"]})
            if run_id(config) == row["run_id"]:
                return config
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{what}: the record does not say how it was configured ({first_line(error)})") from error
    raise ConfigError(
        f"{what}: another version of this project recorded it, under which the same configuration may have given other "
        "numbers; make the record again"
    )


def _group(row: pd.Series, group: str, known: Mapping[str, type], listed: bool) -> Any:
    options = known[row[f"{group}.name"]]
    return options(**{f.name: _cell(row, f"{group}.{f.name}", f, listed) for f in fields(options)})


def _cell(row: pd.Series, name: str, field: Field, listed: bool) -> Any:
    """What a record has for a field; where it has nothing, what all runs had before the field was there, or what says nothing
    without another field."""
    if name not in row or pd.isna(row[name]):
        if "before" in field.metadata:
            return field.metadata["before"]
        if field.metadata.get("only_with"):
            return field.default
    return _value(row[name], field.type, listed)


def _value(value: Any, kind: Any, listed: bool) -> Any:
    """A cell of a record as the field's type has it: a table has no integers beside gaps, and of a list its texts, so that
    `listed` decides whether a single one stands for itself."""
    kinds = get_args(kind) or (kind,)
    if not isinstance(value, str) and pd.isna(value):
        return None
    value = value.item() if isinstance(value, np.generic) else value
    if get_origin(kind) is list or (kind is Any and isinstance(value, str) and (listed or ", " in value)):
        return value.split(", ")
    if Any in kinds or str in kinds:
        return value
    return next(convert(value) for convert in (bool, int, float) if convert in kinds)


def compare(experiment: str, run: str, record: pd.DataFrame, again: pd.DataFrame, fused: bool) -> Comparison:
    """`again`: the rows of the run in the table of those that were trained again."""

    def differs(reason: str, by: float = math.inf) -> Comparison:
        return Comparison(experiment, run, DIFFERENT, by, reason)

    before = record[record["run_id"] == run].set_index("step")
    after = rounded(again[again["step"].isin(before.index)]).set_index("step")
    numbers = [name for name in before.columns if is_measured(name) or name.startswith("summary.")]
    # A record has the columns of all its runs: what this one did not measure then, as a LoRA no grad/W, it need not have now.
    if lacking := [name for name in numbers if name not in after and before[name].notna().any()]:
        return differs(f"it has no {lacking[0]}")
    numbers = [name for name in numbers if name in after]
    if not before.index.equals(after.index):
        return differs("it has other steps")
    x, y = (table[numbers].apply(pd.to_numeric).to_numpy(float) for table in (before, after))
    equal = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(all="ignore"):
        relative = np.where(
            equal, 0.0, np.nan_to_num(np.abs(y / x - 1), nan=np.inf)
        )  # a number that is gone is far off
    losses = [name.endswith("loss") for name in numbers]
    difference = float(relative[:, losses].max(initial=0.0))
    same_end = before["status"].iloc[0] == after["status"].iloc[0]
    if equal.all() and same_end:
        return Comparison(experiment, run, SAME)
    if fused and equal[0, [is_measured(name) for name in numbers]].all():
        wrong = "status" if equal.all() else numbers[int(np.argmin(equal.all(0)))]
        return differs(f"it starts as the record does, and {wrong} differs later", difference)
    gone = ((np.isnan(x) != np.isnan(y)) & [is_measured(name) for name in numbers]).any(0)
    if gone.any():
        return differs(f"{numbers[int(np.argmax(gone))]} is known in one of the two only", difference)
    for kind, tolerance in START.items():
        chosen = [name in LOSSES if kind == "loss" else name.startswith("grad/") for name in numbers]
        if (off := relative[0, chosen].max(initial=0.0)) > tolerance:
            return differs(f"at step {before.index[0]} a {kind} is off by {off:.2g}", difference)
    if not _expected(record, before.iloc[-1], after.iloc[-1]):
        return differs("it ends where no seed of its setting would", difference)
    return Comparison(experiment, run, CLOSE, difference)


def _expected(record: pd.DataFrame, before: pd.Series, after: pd.Series) -> bool:
    """Whether the end is one that another seed of the same setting could have had: always, if some of them diverged."""
    runs = per_run(record)
    settings = [name for name in runs.columns if name != "seed" and (is_setting(name) or name in AXES)]
    setting = runs.groupby(settings, dropna=False).ngroup()
    seen = log_losses(runs[setting == setting[runs["run_id"] == before["run_id"]].iloc[0]])
    if len(seen) < 2 or not np.isfinite(seen).all():
        return True
    reach = stdtrit(len(seen) - 1, (1 + CONFIDENCE) / 2) * seen.std(ddof=1) * math.sqrt(1 + 1 / len(seen))
    return bool(abs(log_losses(after.to_frame().T)[0] - seen.mean()) <= reach)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analysis.verify", description=__doc__.split("\n\n")[0])
    parser.add_argument("experiment", nargs="*", help="a record; default: all")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="root of the records")
    parser.add_argument(
        "--bases", type=Path, default=Path("outputs/bases"), help="where small language models are kept"
    )
    parser.add_argument(
        "--share", default=SHARE, type=share_of, help=f"of each record's runs, or all; default: {SHARE}"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws them; default: 0")
    options = parser.parse_args(arguments)
    if layered := [name for name in options.experiment if name.endswith(LAYERS)]:
        parser.error(
            f"{layered[0]}: is of runs that another record holds; name that one, {layered[0].removesuffix(LAYERS)}"
        )
    if options.seed < 0:
        parser.error(f"--seed {options.seed}: must be 0 or above")
    return options


def share_of(text: str) -> float:
    """Of `--share`."""
    with suppress(ValueError):
        share = 1.0 if text == "all" else float(text)
        if 0 < share <= 1:
            return share
    raise argparse.ArgumentTypeError(f"{text}: must be all, or a number above 0 and up to 1")


if __name__ == "__main__":
    streams.prepare()
    sys.exit(main())

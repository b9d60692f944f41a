"""Which runs of a folder are compared: those of one setting, and of seeds that have them all."""

import warnings
from collections.abc import Sequence

import pandas as pd

from analysis.grid import AXES, is_setting, split
from analysis.tables import where
from analysis.tables.load import per_run

# Fields that no kind of adapter or task needs to have otherwise.
TRAINING = ("steps", "dtype", "optimizer.", "stability.")
FULL = "full"
OF_BASE = "task.base_seed"
IN_PASSING = 2  # seeds of a rate that a search tries, but does not take for the best
SHOWN = 6  # fields that a message names


class LeftOut(UserWarning):
    """Some runs do not compare with the others, and are not used, or should not be."""


def comparable(frame: pd.DataFrame, axes: Sequence[str]) -> list[pd.DataFrame]:
    """The parts of a sweep along further axes than AXES, each narrowed to one setting and to seeds that have every run.

    Parts of one task that were trained differently (longer, say) are kept, with a warning.
    """
    axes = [axis for axis in axes if axis in frame]  # one that no run has tells none apart
    parts = [_beside_full(part) for part in split(frame, axes).values()]
    if len(parts) > 1:
        table = per_run(pd.concat(parts))
        common = [name for name in table if is_setting(name) and name not in axes and name.startswith(TRAINING)]
        alike = [
            name for name in ("task.name", "optimizer.name") if name in table and (name == "task.name" or name in axes)
        ]
        counts = (
            table.groupby(alike)[common].nunique(dropna=False).max() if alike else pd.Series()
        )  # fields are of theirs
        for name in counts.index[counts > 1]:
            values = sorted(map(where.written, table[name].unique()))
            warnings.warn(
                f"runs that are compared differ in {name} ({', '.join(values)}); choose one with: "
                f"{where.argument(name, values[0])}",
                LeftOut,
                stacklevel=2,
            )
    return parts


def _beside_full(frame: pd.DataFrame) -> pd.DataFrame:
    """One setting of the adapters and their seeds, and full finetuning beside them where it agrees: it has no say in either."""
    adapters = balanced(one_setting(without_baseline(frame)))
    full = frame[is_full(frame)]
    if full.empty or is_full(adapters).any():
        return adapters
    shared = [name for name in fields(frame) if not name.startswith(("init.", "adapter."))]
    alike = (full[shared].map(str) == adapters[shared].iloc[0].map(str)).all(axis=1)
    seeds = set(adapters["seed"])
    kept = full[alike & full["seed"].isin(seeds)]
    kept = balanced(kept) if len(kept) else kept
    if set(kept["seed"]) != seeds:
        warnings.warn(
            "full finetuning is left out: of the setting of the adapters it does not have all of their seeds; train these, too",
            LeftOut,
            stacklevel=3,
        )
        return adapters
    return frame[frame["run_id"].isin({*adapters["run_id"], *kept["run_id"]})]


def one_setting(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep runs that differ only along the sweep's axes (init, width, lr, seed), and those of one init in no option of it.

    A folder may also hold trial runs (fewer steps, another rank). Mixing settings would average unlike things: the
    setting with the most runs is kept, with a warning that says what was left out and how to choose it.
    """
    settings = fields(frame)
    options = [name for name in settings if name.startswith("init.")]
    frame = _commonest(frame, [name for name in settings if name not in options])
    kept = pd.concat([_commonest(part, options)["run_id"].drop_duplicates() for _, part in frame.groupby("init.name")])
    return frame[frame["run_id"].isin(kept)]


def fields(frame: pd.DataFrame) -> list[str]:
    """Columns by which runs are told apart. Where each seed has one base, of its own or with others, that is part of the seed."""
    table = per_run(frame)
    of_seed = OF_BASE in table and table.groupby("seed")[OF_BASE].nunique().max() == 1
    return [name for name in table.columns if is_setting(name) and not (of_seed and name == OF_BASE)]


def parametrizations(frame: pd.DataFrame) -> pd.Series:
    """How the model of each row was pretrained, where that is not the standard; empty otherwise."""
    empty = pd.Series("", frame.index)
    return frame["task.parametrization"].fillna("").astype(str) if "task.parametrization" in frame else empty


def is_full(frame: pd.DataFrame) -> pd.Series:
    """Which rows are of full finetuning: the baseline that adapters are compared with, and no adapter."""
    return frame["adapter.name"] == FULL if "adapter.name" in frame else pd.Series(False, frame.index)


def without_baseline(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of adapters; all of them, where full finetuning is all there is."""
    full = is_full(frame)
    return frame if full.all() else frame[~full]


def _commonest(frame: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """The runs of the setting that most runs have."""
    table = per_run(frame)
    varying = [name for name in settings if table[name].nunique(dropna=False) > 1]
    if not varying:
        return frame
    texts = pd.DataFrame({name: table[name].map(str, na_action=None) for name in varying})
    labels = texts.apply("\n".join, axis=1)
    counts, empty = labels.value_counts(), table[varying].isna().sum(axis=1).groupby(labels).first()
    # of two as common, that with fewer fields that are used
    most, *_ = ranking = sorted(counts.index, key=lambda label: (-counts[label], -empty[label]))
    first = table.loc[[(labels == most).idxmax()]]
    setting = _some([f"{name}={where.written(first[name].item())}" for name in varying])
    return _narrowed(
        frame,
        table.loc[labels == most, "run_id"],
        f"runs differ in {_some(varying)}",
        f"with {setting}",
        f"choose others with: {_choice(table, texts, labels, ranking[1])}",
    )


def _setting(cell: tuple) -> tuple:
    """Of an init, width and rate, without the rate."""
    return cell[:2]


def _narrowed(frame: pd.DataFrame, kept: pd.Series, why: str, which: str, remedy: str) -> pd.DataFrame:
    """The table of the runs that are kept, with a warning that says which, why, and what to do about the others."""
    left = frame["run_id"].nunique() - len(kept)
    warnings.warn(f"{why}: using the {len(kept)} {which}, leaving out {left}; {remedy}", LeftOut, stacklevel=4)
    return frame[frame["run_id"].isin(kept)]


def _choice(table: pd.DataFrame, texts: pd.DataFrame, labels: pd.Series, wanted: str) -> str:
    """As few conditions as make this setting the commonest of the runs that are left."""
    place, left, names = (labels == wanted).idxmax(), pd.Series(True, labels.index), []
    same = {name: texts[name] == texts.at[place, name] for name in texts}
    alone = [name for name in texts if labels[same[name]].value_counts().index[0] == wanted]
    for name in alone[:1] or texts:
        if (left & same[name]).sum() < left.sum():
            left &= same[name]
            names.append(name)
        if labels[left].value_counts().index[0] == wanted:
            break
    return " ".join(where.argument(name, table.at[place, name]) for name in names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def balanced(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep a grid in which every seed has every run: means over different seeds at different rates do not compare.

    Cells (init, width, lr) that no more than half of the seeds have, or no more than a search tries in passing, are left out,
    then seeds without all other cells. A warning says so, but for what a search leaves: other rates of an init and width.
    """
    table = per_run(frame)
    cells = table[[name for name in AXES if name != "seed"]].apply(tuple, axis=1)
    counts, seeds = cells.map(cells.value_counts()), table["seed"].nunique()
    common = (2 * counts > seeds) & ((counts > IN_PASSING) | (seeds <= IN_PASSING))
    counts = table.loc[common, "seed"].value_counts()
    complete = counts.index[counts == cells[common].nunique()]
    kept = table.loc[common & table["seed"].isin(complete), "run_id"]
    if len(kept) in (0, len(table)):
        return frame
    of_kept = table["run_id"].isin(kept)
    if len(complete) == seeds and set(cells[~of_kept].map(_setting)) <= set(cells[of_kept].map(_setting)):
        return frame[frame["run_id"].isin(kept)]
    seeds = f"of seeds {', '.join(map(str, sorted(complete)))}"
    return _narrowed(frame, kept, "not every seed has every run", seeds, "train the missing ones to use all")

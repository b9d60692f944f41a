"""Directories of runs as the runner leaves them, of tables that the tests write down, and what may befall their files."""

import hashlib
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml


def store(folder: Path, frame: pd.DataFrame) -> None:
    """The runs of a table as `analysis.load` returns it."""
    for run, rows in frame.groupby("run_id"):
        first, steps = rows.iloc[0], rows[["step", *(name for name in frame if "/" in name)]]
        (path := folder / str(run)).mkdir(parents=True)
        fields: dict = {}
        for name in set(frame) - set(steps) - {"run_id", "status"}:
            if not name.startswith("summary."):
                *groups, last = name.split(".")
                place = fields
                for group in groups:
                    place = place.setdefault(group, {})
                place[last] = getattr(first[name], "item", lambda value=first[name]: value)()
        summary = {
            name[8:]: None if pd.isna(first[name]) else first[name] for name in frame if name.startswith("summary.")
        }
        (path / "config.yaml").write_text(yaml.safe_dump(fields))
        (path / "summary.json").write_text(json.dumps(summary))
        steps.to_parquet(path / "steps.parquet", index=False)
        (path / "meta.json").write_text(json.dumps({"run_id": run, "status": first["status"]}))
        seal(path)


def seal(run: Path) -> None:
    """Give meta.json the checksums of the other files, whatever they hold."""
    names = [path.name for path in run.iterdir() if path.is_file() and path.name != "meta.json"]
    meta = json.loads((run / "meta.json").read_text())
    meta["sha256"] = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}
    (run / "meta.json").write_text(json.dumps(meta))


def instead(make: Callable[[Path], object]) -> Callable[[Path, random.Random], None]:
    """Something else in the place of a file."""

    def replace(path: Path, _: random.Random) -> None:
        path.unlink()
        make(path)

    return replace


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


FILES = {
    "a pipe": instead(os.mkfifo),
    "a folder": instead(Path.mkdir),
    "a link to itself": instead(lambda path: path.symlink_to(path)),
    "a link to nothing": instead(lambda path: path.symlink_to("nothing")),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "empty": instead(Path.touch),
    "a terabyte": instead(lambda path: (path.touch(), os.truncate(path, 2**40))),
    "cut off": lambda path, rng: os.truncate(path, rng.randrange(1, path.stat().st_size)),
    "other bytes": lambda path, rng: path.write_bytes(rng.randbytes(500)),
    "zeros": lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
    "a bit": flip,
}


def rewritten(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path, random.Random], None]:
    """A table that holds something else."""

    def rewrite(path: Path, _: random.Random) -> None:
        buffer = io.BytesIO()
        change(pd.read_parquet(path)).to_parquet(buffer, index=False)
        path.write_bytes(buffer.getvalue())

    return rewrite

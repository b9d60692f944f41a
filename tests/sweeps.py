"""A small sweep, and what it leaves in its store."""

from pathlib import Path

SWEEP = (
    "--multirun task.width=16 task.teacher_width=16 task.train_points=20 steps=20 seed=range(0,5) "
    "init=gaussian_A,gaussian_B optimizer.lr=1e-3,1e-2,1e-1"
).split()
RUNS = 30


def contents(outputs: Path) -> dict[str, bytes]:
    """Every file of the store but the run directories' config.yaml and meta.json, which hold the root folder and times."""
    files = {
        str(f.relative_to(outputs)): f.read_bytes()
        for f in outputs.rglob("*")
        if f.is_file() and f.name not in ("config.yaml", "meta.json")
    }
    assert files.pop("runs/.lock") == b""
    return files


def same_store(a: Path, b: Path) -> None:
    assert contents(a) == contents(b)

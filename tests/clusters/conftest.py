"""What the tests on clusters share: a sweep of some seconds, what it leaves on this machine alone, and ways to start it there.

They are not part of `pytest`: `make test-clusters` runs them, as root on a Debian machine.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm import Slurm, until

ROOT = Path(__file__).parent.parent.parent
SWEEP = (
    "--multirun task.width=64 steps=2500 log.every=25 eval.every=50 seed=range(0,3) init=gaussian_A,gaussian_B "
    "optimizer.lr=1e-3,1e-2,1e1 checkpoint.minutes=0.02 experiment=some"
).split()
RUNS, STACKS = 18, 3
# Each stack is a job of its own.
COMMAND = "from runner.sweeps.executors import slurm; slurm.JOB_COST = 0; from runner.sweeps.cli import main; main()"
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

Start = Callable[..., subprocess.Popen]


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> dict[str, bytes]:
    """What the sweep leaves if nothing happens to it, in one process."""
    outputs = tmp_path_factory.mktemp("alone")
    subprocess.run(
        [sys.executable, "-c", COMMAND, *SWEEP, f"outputs={outputs}", "workers=1"], check=True, env=ALONE, cwd=ROOT
    )
    return stored(outputs)


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """`start("executor=slurm", …)`: the sweep, as a command of its own, into `tmp_path`; killed where it is not waited for."""
    commands: list[subprocess.Popen] = []

    def begin(*arguments: str) -> subprocess.Popen:
        commands.append(
            subprocess.Popen(
                [sys.executable, "-c", COMMAND, *SWEEP, f"outputs={tmp_path}", *arguments],
                env=ALONE | {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
            )
        )
        return commands[-1]

    yield begin
    for command in commands:
        command.kill()
        command.communicate()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Slurm]:
    """Slurm, which is skipped where it cannot be started."""
    if os.geteuid() != 0 or shutil.which("slurmctld") is None:
        pytest.skip("starting Slurm takes root and the packages slurm-wlm and munge")
    with Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


def stored(outputs: Path) -> dict[str, bytes]:
    """What a store holds of its runs, besides times and places."""
    files = [
        path for path in (outputs / "runs").rglob("*") if path.is_file() and path.name not in ("meta.json", ".lock")
    ]
    return {str(path.relative_to(outputs)): path.read_bytes().replace(str(outputs).encode(), b"") for path in files}


def same(outputs: Path, alone: dict[str, bytes]) -> None:
    """Bit for bit, and nothing else: no checkpoint, no half of a run."""
    there = stored(outputs)
    assert there.keys() == alone.keys()
    for name, contents in alone.items():
        if not name.endswith("config.yaml"):  # has workers and the like
            assert there[name] == contents, name


def ends_well(command: subprocess.Popen, seconds: float = 150) -> str:
    """What it printed; all runs have ended as they should."""
    output, _ = command.communicate(timeout=seconds)
    assert command.returncode == 0, output
    return output


def checkpoints(outputs: Path) -> list[Path]:
    return list(outputs.glob("runs/*/.checkpoints/*.safetensors"))


def training(outputs: Path) -> None:
    """Wait until some stack has saved its state."""
    until(lambda: checkpoints(outputs), "a stack trains", 60)


def metas(outputs: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in outputs.glob("runs/*/*/meta.json")]

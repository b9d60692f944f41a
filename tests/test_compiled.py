"""Kernels where what was compiled cannot be kept: they run all the same, and it is said once."""

import os
import subprocess
import sys

CODE = """
from runner.core.compiled import njit

def double(x):
    return 2 * x

def triple(x):
    return 3 * x

double, triple = njit()(double), njit(inline="always")(triple)
print(double(2), triple(2), double.signatures != [])
"""


def test_a_cache_that_cannot_be_written_is_said_once_and_done_without(tmp_path):
    """Neither beside the source, where a file is in the way, which stops root, too, nor at home; but where it is told to."""
    (tmp_path / "kernels.py").write_text(CODE)
    (tmp_path / "__pycache__").touch()
    told = []
    for folder in ("/proc/nowhere", tmp_path / "cache"):
        home = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), "/proc/nowhere")
        environment = os.environ | home | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(tmp_path / "kernels.py")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.stdout == "4 6 True\n", done.stderr
        told.append(done.stderr.count("compiled code cannot be kept"))
        assert len(done.stderr.splitlines()) == told[-1]
    assert told == [1, 0] and list((tmp_path / "cache").rglob("*.nbi"))

"""Commands whose terminal knows few characters, or whose streams are closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    "runner/__main__.py",
    "runner/export.py",
    "runner/push.py",
    "analysis/__main__.py",
    "analysis/verify.py",
    "bench/__main__.py",
]
PREPARED, UNPREPARED = "from runner.core import streams; streams.prepare()", "pass"


def shell(code: str, redirections: str = "", **environment: str) -> subprocess.CompletedProcess:
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, code]
    return subprocess.run(command, capture_output=True, cwd=ROOT, env=os.environ | environment, timeout=60)


@pytest.mark.parametrize("encoding", ["ascii", "latin1", "utf-8"])
def test_what_an_encoding_lacks_is_written_as_an_escape(encoding):
    """A character, and what a file name has in the place of bytes that are no character."""

    def written(first):
        done = shell(f"{first}; print('n = ∞, \\udcc3')", PYTHONIOENCODING=encoding)
        return done.returncode == 0 and done.stdout.decode(encoding) in ("n = \\u221e, \\udcc3\n", "n = ∞, \\udcc3\n")

    assert written(PREPARED) and not written(UNPREPARED)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere_and_no_file_takes_their_numbers(closed, tmp_path):
    """A file that did would be written to by whatever a library says on stderr, here or in a process that is started here."""
    path = tmp_path / "file"

    def goes_nowhere(first):
        code = (
            f"import os, sys; {first}; file = open({str(path)!r}, 'w'); print('result'); sys.stderr.write('note')\n"
            "assert sys.stdin.read() == '' and file.fileno() > 2; os.write(2, b'from C')\n"
            "assert all(map(os.get_inheritable, range(3)))"
        )
        return shell(code, f"</dev/null {closed}").returncode == 0 and path.read_bytes() == b""

    assert goes_nowhere(PREPARED) and not goes_nowhere(UNPREPARED)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prepares_them(command):
    assert (ROOT / command).read_text().count("streams.prepare()\n") == 1


def test_these_are_all_commands():
    """Of `bench`, the one that starts the others."""
    sources = [path for folder in ("runner", "analysis") for path in (ROOT / folder).rglob("*.py")]
    found = {path for path in sources if path.name == "__main__.py" or "if __name__ ==" in path.read_text()}
    assert {path.relative_to(ROOT).as_posix() for path in found} | {"bench/__main__.py"} == set(COMMANDS)


def test_help_in_ascii():
    command = [sys.executable, "-m", "runner", "--help"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stderr == b"" and rb"key=value \u2026" in done.stdout


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}], ids=str)
def test_a_path_may_have_characters_that_the_terminal_lacks(environment, tmp_path):
    """Where runs are trained, and then drawn."""
    outputs, sizes = tmp_path / "größe", ["task.width=8", "task.train_points=4", "steps=8"]
    for command in (
        ["runner", *sizes, f"outputs='{outputs}'"],
        ["analysis", "gradient_norms", "--experiment", "scratch", "--outputs", str(outputs)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, cwd=ROOT, env=os.environ | environment
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    assert list(outputs.glob("runs/scratch/*/summary.json")) and list(outputs.rglob("*.png"))


@pytest.mark.skipif(sys.platform == "darwin", reason="there, names of files are always UTF-8")
def test_a_path_of_bytes_that_are_no_characters_is_refused(tmp_path):
    """So Python has the names of files where it is told to know ASCII only (elsewhere than on a Mac)."""
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "runner", "steps=1", f"outputs='{tmp_path / 'größe'}'"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=ascii_only)
    assert (
        done.returncode == 2
        and b"has characters that cannot be printed" in done.stderr
        and done.stderr.count(b"\n") == 1
    )


def test_threads_that_wait_for_each_other_sleep():
    """Set before a library that reads it is loaded, and not where it was set already."""
    code = (
        "import runner, os, sys; assert not {'torch', 'numba'} & set(sys.modules); print(os.environ['OMP_WAIT_POLICY'])"
    )
    unset = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, found in (({}, b"passive\n"), ({"OMP_WAIT_POLICY": "active"}, b"active\n")):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=unset | given)
        assert done.stdout == found, done.stderr

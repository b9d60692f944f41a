"""A small sweep, what it leaves in its store, and a way to kill one."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import processes

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


# What a sweep loads, also for its first kernel.
LOADED = """
import os, signal, sys
sys.argv = ["runner", *sys.argv[1:]]
import numba, torch.fx.experimental.symbolic_shapes
from runner.sweeps import cli, execute
from runner.training import train
numba.njit(lambda: None)()
"""

# A process that has loaded everything, and starts a sweep of its own in a fork each time it reads a line: the root
# folder, the number of the file operation after which the sweep shall die (0: none), and how many microseconds later
# (0: at once, by SIGKILL). No handler sees the end that an alarm brings, and it may come within any instruction. Prints
# how the sweep ended and how many file operations there were.
SERVER = (
    LOADED
    + """
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "fcntl.lockf"}
for line in sys.stdin:
    outputs, fatal, later = line.split()
    reading, writing = os.pipe()
    if not (child := os.fork()):
        count = 0
        def hook(event, arguments):
            global count
            if event in OPERATIONS and (event == "fcntl.lockf" or outputs in str(arguments[0])):
                count += 1
                if count == int(fatal):
                    if later == "0":
                        os.kill(os.getpid(), signal.SIGKILL)
                    signal.setitimer(signal.ITIMER_REAL, int(later) * 1e-6)
        sys.addaudithook(hook)
        sys.argv.append("outputs=" + outputs)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        os.write(writing, str(count).encode())
        os._exit(code)
    os.close(writing)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, os.read(reading, 20).decode() or 0, flush=True)
    os.close(reading)
"""
)

# Such a process whose forks all start the same sweep at once. Prints how each ended and what it said.
TOGETHER = (
    LOADED
    + """
import json
pipes = []
for number in range(int(sys.argv.pop(1))):
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.dup2(writing, 1)
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        sys.stdout.flush()
        os._exit(code)
    os.close(writing)
    pipes.append((child, reading))
told = [open(reading).read() for _, reading in pipes]
print(json.dumps([(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out) for (child, _), out in zip(pipes, told)]))
"""
)


def at_once(count: int, *arguments: str) -> list[list]:
    """[exit code, stdout] of so many processes that run the same sweep at once."""
    command = [sys.executable, "-c", TOGETHER, str(count), *arguments]
    return json.loads(processes.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


@contextmanager
def killable(*arguments: str) -> Iterator[Callable[..., tuple[int, int]]]:
    """`sweep(outputs, fatal, later)` -> (exit code, file operations) of a sweep with these arguments, see SERVER."""
    command = [sys.executable, "-c", SERVER, *arguments]
    with processes.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def sweep(outputs: Path, fatal: int = 0, later: int = 1) -> tuple[int, int]:
            server.stdin.write(f"{outputs} {fatal} {later}\n")
            server.stdin.flush()
            code, operations = map(int, server.stdout.readline().split())
            return code, operations

        yield sweep

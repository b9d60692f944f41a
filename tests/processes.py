"""Processes of Python that start at once: forks of one that has loaded what a sweep loads, which takes seconds.

`run` and `Popen` are subprocess's, for `[sys.executable, "-m" or "-c" or a script, …]`; what they start is a child of the process
that asks, as any other. Not for what is about a start: encodings of streams, which libraries are loaded, their threads.
"""

import atexit
import ctypes
import gc
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from functools import cache, partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl.h
LOADED = ("torch.fx.experimental.symbolic_shapes", "runner.sweeps.cli", "runner.training.train")
LONGEST = 2**17  # bytes of a message: a command and the variables of its environment
BY_EXEC = subprocess.Popen


class Popen(BY_EXEC):
    def _execute_child(self, *arguments: Any) -> None:
        names = inspect.signature(BY_EXEC._execute_child).bind(self, *arguments).arguments
        asked = {"command": names["args"][1:], "cwd": os.fspath(names["cwd"] or os.getcwd())}
        asked["environment"] = dict(os.environ if names["env"] is None else names["env"])
        given = [names[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        connection = _server()
        # The fork's parent ends at once, and the fork is ours then. Only for this moment: orphans of others would be, too.
        prctl = partial(ctypes.CDLL(None).prctl, PR_SET_CHILD_SUBREAPER)
        prctl(1, 0, 0, 0)
        try:
            streams = [number if own == -1 else own for number, own in enumerate(given)]
            socket.send_fds(connection, [json.dumps(asked).encode()], streams)
            self.pid = int(connection.recv(LONGEST))
        finally:
            prctl(0, 0, 0, 0)
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(names[name] for name in pipes))


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess:
    """subprocess.run, of such a process."""
    with patch.object(subprocess, "Popen", Popen):
        return subprocess.run(command, **options)


@cache
def _server() -> socket.socket:
    """A connection to this process's server, which ends with it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = BY_EXEC([sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()])
    server.returncode = 0  # nobody waits for it
    its.close()
    atexit.register(ours.close)
    return ours


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for each command that comes; returns in a fork, with its command."""
    while True:
        message, streams, *_ = socket.recv_fds(connection, LONGEST, 3)
        if not message:
            sys.exit()
        reading, writing = os.pipe()
        if not (middle := os.fork()):
            if child := os.fork():
                os.write(writing, str(child).encode())
                os._exit(0)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            connection.detach()
            os.closerange(3, 256)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stdin = open(0, closefd=False)
            sys.stdout = open(1, "w", closefd=False)
            sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
            return json.loads(message)
        os.waitpid(middle, 0)
        connection.send(os.read(reading, 20))
        for each in (reading, writing, *streams):
            os.close(each)


def _become(command: list[str], cwd: str, environment: dict[str, str]) -> None:
    """As Python does when it starts."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    kind, *rest = command
    sys.argv = ["-c", *rest[1:]] if kind == "-c" else rest if kind == "-m" else command
    folder = {"-c": "", "-m": cwd}.get(kind, os.path.dirname(kind))
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    main = sys.modules["__main__"] = ModuleType("__main__")
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        runpy.run_path(kind, run_name="__main__")


if sys.platform != "linux":  # there is no such way elsewhere
    Popen, run = subprocess.Popen, subprocess.run
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until it is forked
    server = socket.socket(fileno=int(sys.argv[1]))
    for name in LOADED:
        importlib.import_module(name)
    importlib.import_module("numba").njit(lambda: None)()  # what compiling loads
    gc.freeze()
    _become(**_serve(server))

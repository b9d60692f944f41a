"""Mutation runs: do the tests see a small mistake in the code?

    python -m tests.mutate runner --count 150 --seed 0
    python -m tests.mutate analysis --leave-out tests/test_report.py::test_committed_claims_are_those_of_the_committed_records

One mutant (`mutants`) after another is written into a copy of the tree, where a test that runs its line must fail, or take
too long. Each has a process of its own, forked with the libraries loaded. Which tests run a line is recorded first. Survivors
are printed as diffs: either such a mutant does what the code does, or a test is missing, as it is where NO TEST runs it.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NoReturn

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"), "1")
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
sys.dont_write_bytecode = True  # two mutants may have one age and size

import numba
import pytest

from tests.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[1]
LOADED = "torch transformers peft scipy.stats pandas hydra matplotlib.pyplot".split()  # by all processes, once
TARGETS = {  # what is mutated, and the test files that may see it
    "runner": (
        "runner/core/rng.py runner/adapters/*.py runner/inits/*.py runner/tasks/*.py runner/training/*/*.py "
        "runner/training/log.py runner/training/st*.py runner/training/train.py",
        "adapters full full_columns full_parity fused init_algebra inits log meters metrics model_runs models optim "
        "peft_folders peft_inits products slopes stability start tasks train",
    ),
    "analysis": (
        "analysis/**/*.py",
        "adhoc analysis_command blocks captions claims claims_variants damage figure_contents figure_messages figure_numbers "
        "figures grid load needs report scaling schema verdicts verify where",
    ),
}


class Recorder:
    """A pytest plugin that keeps which lines of the modules each test runs, and its seconds."""

    def __init__(self, tree: Path, modules: Sequence[str], out: Path):
        self.modules, self.out = {str(tree / module): module for module in modules}, out
        self.lines: dict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = defaultdict(float)

    def _trace(self, frame, event, argument):
        module = self.modules.get(frame.f_code.co_filename)
        if module is None:
            return None
        if event == "line":  # a call is at its decorators, which run at import
            self.lines[f"{module}:{frame.f_lineno}"].add(self.test)
        return self._trace

    def pytest_runtest_logstart(self, nodeid):
        self.test = nodeid.partition("[")[0]
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def pytest_runtest_logreport(self, report):
        self.seconds[self.test] += report.duration

    def pytest_sessionfinish(self):
        sys.settrace(None)
        lines = {line: sorted(tests) for line, tests in self.lines.items()}
        self.out.write_text(json.dumps({"seconds": self.seconds, "lines": lines}))


class Record:
    """What the recorder has kept: which tests may see a mutant, and how long they take."""

    def __init__(self, file: Path, modules: Sequence[str], left_out: Sequence[str]):
        record = json.loads(file.read_text())
        self.seconds = {test: taken for test, taken in record["seconds"].items() if test not in left_out}
        self.lines = {line: self.seconds.keys() & tests for line, tests in record["lines"].items()}
        self.of_module = defaultdict(set)
        for line, tests in self.lines.items():
            self.of_module[line.partition(":")[0]] |= tests
        files = [*modules, *(f"tests/{path.name}" for path in ROOT.glob("tests/*.py"))]
        texts = {path: (ROOT / path).read_text() for path in files}
        self.importers = {m: [path for path, text in texts.items() if imports(text, m)] for m in modules}
        self.compiled = {m for m in modules if any("njit" in texts[path] for path in (m, *self.importers[m]))}

    def tests(self, mutant: Mutant, most: float) -> list[str]:
        """Those that run its line, or its statement; of code that is compiled, or run at import, those that meet its module.
        Test files that import the module come first, and quick tests, until they take `most` seconds."""
        for first, last in (mutant.lines, mutant.statement):
            found = set().union(*(self.lines.get(f"{mutant.path}:{i}", ()) for i in range(first, last + 1)))
            if found:
                break
        else:
            found = set(self.of_module[mutant.path])
            for path in self.importers[mutant.path]:
                found |= self.of_module[path] | {test for test in self.seconds if test.startswith(f"{path}::")}
        importers = self.importers[mutant.path]
        tests = sorted(found, key=lambda test: (test.partition("::")[0] not in importers, self.seconds[test]))
        passed = itertools.accumulate(map(self.seconds.get, tests))
        return [test for i, (test, taken) in enumerate(zip(tests, passed, strict=True)) if taken < most or not i]


def imports(text: str, module: str) -> bool:
    """Whether a module's text has an import of the other."""
    package, _, name = module.removesuffix(".py").replace("/", ".").rpartition(".")
    return bool(re.search(rf"from {package}(\.{name} import| import .*\b{name}\b)", text))


def outcome(tests: Sequence[str], code: int | None) -> str:
    """What became of a mutant, by pytest's exit code on these tests."""
    return {0: "SURVIVED", None: "killed, by time"}.get(code, "killed") if tests else "NO TEST"


class Tree:
    """A copy of the project to break, and pytest in it."""

    def __init__(self, folder: Path):
        self.root, self.log, self.scratch, self.caches = (folder / name for name in ("tree", "log", "scratch", "numba"))
        shutil.copytree(ROOT, self.root, ignore=shutil.ignore_patterns(".git", "runs", "*.pyc", "*.nb?"))

    def test(self, arguments: Sequence[str], limit: float, plugins: Sequence[object] = ()) -> int | None:
        """pytest's exit code, by a process of its own; None where it took more than `limit` seconds."""
        child = os.fork()
        if not child:
            self._test(arguments, plugins)
        end, done, status = time.monotonic() + limit, 0, 0
        try:
            while not done and time.monotonic() < end:
                time.sleep(0.02)
                done, status = os.waitpid(child, os.WNOHANG)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # with whatever it started
            if not done:
                os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) if done else None

    def _test(self, arguments: Sequence[str], plugins: Sequence[object]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            os.chdir(self.root)
            os.environ["PYTHONPATH"] = str(self.root)
            sys.path[:] = [str(self.root), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            options = f"-x --tb=short -p no:cacheprovider -o addopts= --basetemp={self.scratch}".split()
            code = int(pytest.main([*options, *arguments], list(plugins)))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def with_mutant(
        self, mutant: Mutant, source: bytes, tests: Sequence[str], limit: float, compiled: bool
    ) -> int | None:
        """pytest's exit code with the mutant in its place."""
        file = self.root / mutant.path
        age = file.stat()
        # Numba keeps compiled code by the age of its own file alone, and it may hold numbers of others.
        shutil.rmtree(self.caches, ignore_errors=True)
        numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(self.caches) if compiled else ""
        file.write_bytes(mutant.applied(source))
        try:
            return self.test(tests, limit)
        finally:
            file.write_bytes(source)
            os.utime(file, ns=(age.st_atime_ns, age.st_mtime_ns))


def main(
    target: str, count: int, seed: int, only: Sequence[str], left_out: Sequence[str], record: Path | None, most: float
) -> None:
    globs, tests = TARGETS[target]
    modules = sorted({str(path.relative_to(ROOT)) for glob in globs.split() for path in ROOT.glob(glob)})
    sources = {module: (ROOT / module).read_bytes() for module in modules}
    asked = [module for module in modules if not only or any(fnmatch(module, pattern) for pattern in only)]
    everything = [mutant for module in asked for mutant in mutants(module, sources[module])]
    random.Random(seed).shuffle(everything)
    chosen = list(itertools.islice((mutant for mutant in everything if mutant.compiles(sources[mutant.path])), count))
    survivors = 0
    for library in LOADED:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        tree, record = Tree(Path(folder)), record or Path(folder) / "record.json"
        if not record.exists():
            files, recorder = [f"tests/test_{name}.py" for name in tests.split()], Recorder(tree.root, modules, record)
            if tree.test([*files, *(f"--deselect={test}" for test in left_out)], 7200, [recorder]) != 0:
                sys.exit(f"{tree.log.read_text()}\nThe tests do not pass as they are.")
        known = Record(record, modules, left_out)
        for i, mutant in enumerate(chosen):
            source, selected, start = sources[mutant.path], known.tests(mutant, most), time.monotonic()
            limit = 120 + 5 * sum(map(known.seconds.get, selected))  # to compile takes a minute
            code = tree.with_mutant(mutant, source, selected, limit, mutant.path in known.compiled) if selected else 0
            if code == pytest.ExitCode.USAGE_ERROR and "not found: " in tree.log.read_text():
                sys.exit(f"{record} is of other tests; remove it")
            seconds = f"{time.monotonic() - start:.0f} s"
            print(
                f"{i + 1}/{count} {outcome(selected, code)}: {mutant.path}:{mutant.lines[0]}, {len(selected)} tests, {seconds}",
                flush=True,
            )
            if code == 0:
                survivors += 1
                print(mutant.diff(source), flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=150, help="how many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument(
        "--only", nargs="*", metavar="MODULE", help="modules to mutate, as patterns; all, if none is given"
    )
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="TEST", help="tests that are not to see them")
    parser.add_argument("--record", type=Path, help="a file that keeps which test runs which line, until they change")
    parser.add_argument("--most", type=float, default=300, help="seconds of tests for a mutant")
    given = parser.parse_args()
    main(given.target, given.count, given.seed, given.only, given.leave_out, given.record, given.most)

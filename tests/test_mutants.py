"""Which small mistakes a mutation run makes, and who is to see them."""

import importlib
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import rejects
from mutants import mutants

SOURCE = '''
def step(x: int = 1, *, how="a + 1") -> "1 + 1":
    """Σ: 1 + 1"""
    if x < 0:
        raise ValueError(f"{x}: must be 1 + 1")
    x[:n] -= 0.5
    return f(x, y, n=3, device=cpu)
'''


def test_mistakes_are_in_what_has_numbers_alone():
    """Neither in texts and types, nor in errors; and they are where they belong, behind letters of two bytes too."""
    source = SOURCE.encode()

    def are(expected):
        found = [mutant.applied(source).decode() for mutant in mutants("x.py", source) if mutant.compiles(source)]
        changed = [
            [new for old, new in zip(SOURCE.splitlines(), text.splitlines(), strict=True) if old != new]
            for text in found
        ]
        assert sorted(line.strip() for [line] in changed) == sorted(expected)

    expected = [
        *(f'def step(x: int = {i}, *, how="a + 1") -> "1 + 1":' for i in ("2", "(0)")),
        *(f"if {test}:" for test in ("(x <= 0)", "(x > 0)", "(not (x < 0))", "x < 1", "x < (-1)")),
        "x[:n] += 0.5",
        "x[:] -= 0.5",
        "x[:n] -= 0.55",
        "pass",
        *(f"return f({given})" for given in ("x, y, device=cpu", "y, x, n=3, device=cpu")),
        *(f"return f(x, y, n={n}, device=cpu)" for n in ("4", "(2)")),
        "return None",
    ]
    are(expected)
    rejects(are, expected[1:])


@pytest.fixture
def mutate(monkeypatch):
    """The command's module, which sets the environment of its process when it is imported."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    return importlib.import_module("tests.mutate")


def test_the_tests_that_it_names_are_there(mutate):
    for _, names in mutate.TARGETS.values():
        assert all((mutate.ROOT / "tests" / f"test_{name}.py").exists() for name in names.split())
    [(file, test)] = re.findall(r"(tests/\w+\.py)::(\w+)", mutate.__doc__)
    assert f"def {test}(" in (mutate.ROOT / file).read_text()
    assert Path(file).stem.removeprefix("test_") in mutate.TARGETS["analysis"][1].split()


def test_what_no_test_runs_has_not_survived_one(mutate):
    outcomes = {(("a",), 0): "SURVIVED", (("a",), None): "killed, by time", (("a",), 1): "killed", ((), 0): "NO TEST"}
    assert {given: mutate.outcome(*given) for given in outcomes} == outcomes

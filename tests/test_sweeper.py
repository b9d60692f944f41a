"""The sweeper gives every run the configuration that Hydra itself would give it."""

import pytest
from conftest import rejects
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf, open_dict

from hydra_plugins.stack_sweeper import StackSweeper
from runner.config import CONF, from_hydra, run_id, with_values

SWEEPS = {
    "values": ["optimizer.lr=1e-3,1e-2", "seed=0,1,2"],
    "groups": ["init=gaussian_A,gaussian_B", "optimizer=sgd,adamw", "task=linear,teacher_student"],
    "interpolations": [
        "adapter.rank=1,2",
        "task=feature_regression,teacher_student",
        "task.width=${steps},${probe.size}",
    ],
    "functions": [
        "seed=range(0,3)",
        "optimizer.lr=choice(0.1,0.2)",
        "init=glob(gaussian*)",
        "task.width=sort(30,20,10)",
    ],
    "experiment": ["experiment=width_exponents", "task.width=128", "steps=2", "seed=0,1"],
    "inherited experiment": ["experiment=headline", "optimizer.lr=0.1,0.2", "task.width=64,128"],
    "references to what varies": [
        "task=feature_regression,teacher_student",
        "adapter.rank=1,2,3",
        "task.train_points=${task.width}",
        "seed=7,${adapter.rank}",
    ],
    "whole nodes": ["log={every:2},{every:3}", "optimizer.lr=0.1,0.2"],
    "additions": ["++optimizer.lr=0.1,0.2", "++seed=3,4"],
    "one run": ["optimizer.lr=0.5"],
}


@pytest.fixture
def hydra():
    GlobalHydra.instance().clear()
    yield Hydra.create_main_hydra2("test", create_config_search_path(str(CONF)))
    GlobalHydra.instance().clear()


def composed(hydra, overrides):
    """(ours, Hydra's own) configurations of a sweep."""
    master = hydra.compose_config("config", overrides, RunMode.MULTIRUN)
    arguments = OmegaConf.to_container(master.hydra.overrides.task)
    params = master.hydra.sweeper.params and OmegaConf.to_container(master.hydra.sweeper.params)
    sweeper = StackSweeper(params)
    sweeper.setup(hydra_context=HydraContext(hydra.config_loader, None), task_function=None, config=master)
    theirs = []
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    given = [*(f"{key}={value}" for key, value in (params or {}).items()), *arguments]
    for job in BasicSweeper.split_arguments(parser.parse_overrides(given), None)[0]:
        config = hydra.config_loader.load_sweep_config(master, list(job))
        with open_dict(config):
            del config["hydra"]
        theirs.append(from_hydra(config))
    return sweeper.compose(arguments), theirs


def same(ours, theirs):
    assert ours == theirs
    for a, b in zip(ours, theirs, strict=True):
        assert run_id(a) == run_id(b) and type(a.task) is type(b.task)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_configuration_is_hydras_own(hydra, name):
    ours, theirs = composed(hydra, SWEEPS[name])
    same(ours, theirs)
    rejects(same, [*ours[:-1], with_values(ours[-1], {"optimizer.lr_ratio": 99.0})], theirs)
    rejects(same, ours[::-1] if len(ours) > 1 else [], theirs)


def test_the_command_line_narrows_and_widens_an_experiments_axis(hydra):
    ours, _ = composed(hydra, SWEEPS["inherited experiment"])
    assert {c.optimizer.lr for c in ours} == {0.1, 0.2} and {c.task.width for c in ours} == {64, 128}
    assert len(ours) == 2 * 2 * 2 * 6  # lr × width × init × seed


def test_the_defaults_list_is_composed_once_per_choice_of_files(hydra, monkeypatch):
    master = hydra.compose_config("config", [], RunMode.MULTIRUN)
    sweeper = StackSweeper()
    sweeper.setup(hydra_context=HydraContext(hydra.config_loader, None), task_function=None, config=master)
    calls = []
    real = ConfigLoaderImpl.load_sweep_config
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", lambda *a: calls.append(a) or real(*a))
    assert len(sweeper.compose(["init=gaussian_A,gaussian_B", "optimizer.lr=range(1,51)"])) == 100
    assert len(calls) == 2


def test_hydras_own_sweeper_works_by_name(cli):
    code, _, err = cli(
        "--multirun", "hydra/sweeper=basic", "seed=0,1", "task.width=16", "task.teacher_width=16", "steps=1",
        "task.train_points=20", "hydra.sweep.dir=${outputs}/hydra",
    )  # fmt: skip
    assert code == 0 and err == ""

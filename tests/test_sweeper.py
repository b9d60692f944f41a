"""The sweeper gives every run the configuration that Hydra itself would give it."""

import json
import math
import shutil
import sys

import compositions
import processes
import pytest
from conftest import configure, rejects
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf, open_dict

from hydra_plugins.stack_sweeper import StackSweeper
from runner.config.compose import CONF, from_hydra
from runner.config.identity import run_id, with_values
from runner.sweeps.cli import run

SWEEPS = {
    "values": ["optimizer.lr=1e-3,1e-2", "seed=0,1,2"],
    "groups": ["init=gaussian_A,gaussian_B", "optimizer=sgd,adamw", "task=linear,teacher_student"],
    "interpolations": [
        "adapter.rank=1,2",
        "task=feature_regression,teacher_student",
        "task.width=${steps},${probe.size}",
    ],
    "functions": [
        "seed=range(0,2)",
        "optimizer.lr=choice(0.1,0.2)",
        "init=glob(gaussian_A*)",
        "task.width=sort(30,20,10)",
    ],
    "experiment": ["experiment=width_exponents", "task.width=128,256", "steps=2", "seed=0", "init=gaussian_A"],
    "inherited experiment": ["experiment=headline", "optimizer.lr=0.1,0.2", "task.width=64,128", "seed=range(0,2)"],
    "references to what varies": [
        "task=feature_regression,teacher_student",
        "adapter.rank=1,2,3",
        "task.train_points=${task.width}",
        "seed=7,${adapter.rank}",
    ],
    "whole nodes": ["log={every:2},{every:3}", "optimizer.lr=0.1,0.2"],
    "whole groups, in their order": [
        "optimizer.lr=0.5",
        "optimizer={lr:0.1}",
        "task={width:16},{width:20}",
        "seed=0,1",
    ],
    "references to hydra": ["outputs='${hydra:runtime.cwd}/x'", "seed=0,1"],
    "additions": ["++optimizer.lr=0.1,0.2", "++seed=3,4"],
    "one run": ["optimizer.lr=0.5"],
    "several grids": ["experiment=lora_plus", "seed=3", "optimizer.lr=0.1,0.2", "optimizer.lr_ratio=1,2"],
    "several grids of one choice": [
        *("experiment=variants", "task=teacher_student", "adapter=lora", "init=gaussian_A"),
        *("task.width=64", "optimizer.lr=0.1,0.2", "seed=0"),
    ],
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
    params, grids = (
        node and OmegaConf.to_container(node) for node in (master.hydra.sweeper.params, master.hydra.sweeper.grids)
    )
    sweeper = StackSweeper(params, grids)
    sweeper.setup(hydra_context=HydraContext(hydra.config_loader, None), task_function=None, config=master)
    theirs = []
    HydraConfig.instance().set_config(master)  # as Hydra does before each job
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    for grid in grids or [{}]:
        given = [*(f"{key}={value}" for key, value in ((params or {}) | grid).items()), *arguments]
        for job in BasicSweeper.split_arguments(parser.parse_overrides(given), None)[0]:
            with compositions.kept_no_longer():
                config = hydra.config_loader.load_sweep_config(master, list(job))
            with open_dict(config):
                del config["hydra"]
            theirs.append(from_hydra(config))
    return sweeper.compose(arguments).runs, theirs


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
    assert len(ours) == 2 * 2 * 2 * 2  # lr × width × init × seed


def test_the_defaults_list_is_composed_once_per_choice_of_files(hydra, monkeypatch):
    master = hydra.compose_config("config", [], RunMode.MULTIRUN)
    sweeper = StackSweeper()
    sweeper.setup(hydra_context=HydraContext(hydra.config_loader, None), task_function=None, config=master)
    calls = []
    real = ConfigLoaderImpl.load_sweep_config
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", lambda *a: calls.append(a) or real(*a))
    sweeper.grids = [{"optimizer.lr": "range(1,51)"}, {"adapter.rank": "2,3"}]
    assert len(sweeper.compose(["init=gaussian_A,gaussian_B"]).runs) == 104
    assert len(calls) == 2


def ways(cli, outputs, *arguments):
    """What a sweep that compares with a baseline asks for: (adapter, init, rank, lr) of every run."""
    folder = outputs / "conf"
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    text = """# @package _global_
experiment: compared
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      adapter.rank: 1,2
      init: gaussian_A,gaussian_B
      optimizer.lr: 1e-3,1e-2
    baselines:
      - adapter: full
        init: pretrained
        optimizer.lr: '1e-4'
"""
    (folder / "experiment" / "compared.yaml").write_text(text)
    code, _, err = cli(f"--config-dir={folder}", "experiment=compared", *TINY, *arguments)
    assert code == 0, err
    found = [OmegaConf.load(path) for path in outputs.glob("runs/compared/*/config.yaml")]
    shutil.rmtree(outputs / "runs")
    return {(c.adapter.name, c.init.name, c.adapter.get("rank"), c.optimizer.lr) for c in found}


def test_a_baseline_keeps_its_adapter_and_init_whatever_else_is_asked_for(cli, outputs):
    lora = {("lora", init, rank, lr) for init in ("gaussian_A", "gaussian_B") for rank in (1, 2) for lr in (1e-3, 1e-2)}
    assert ways(cli, outputs) == lora | {("full", "pretrained", None, 1e-4)}
    dora = {("dora", "pissa", 3, lr) for lr in (1e-3, 1e-2)}
    asked = ("adapter=dora", "init=pissa", "init.scale=1.0", "adapter.rank=3")
    assert ways(cli, outputs, *asked) == dora | {("full", "pretrained", None, 1e-4)}
    assert ways(cli, outputs, *asked, "hydra.sweeper.baselines=null") == dora
    with pytest.raises(
        AssertionError, match=r"error: optimizer.lr_ratio.*hydra.sweeper.baselines=null leaves that out"
    ):
        ways(cli, outputs, "optimizer.lr_ratio=2")
    both = {(adapter, init, rank, 0.5) for adapter, init, rank in [("dora", "pissa", 3), ("full", "pretrained", None)]}
    assert ways(cli, outputs, *asked, "optimizer.lr=0.5") == both


TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=5"]
NAMED = {
    "basic": ["hydra/sweeper=basic", "optimizer.lr=1e-3,1e-2"],
    "joblib": ["hydra/sweeper=basic", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "optimizer.lr=1e-3,1e-2"],
    "optuna": [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
        "optimizer.lr=tag(log,interval(1e-3,1e-1))",
    ],
}


@pytest.mark.parametrize("name", NAMED)
def test_hydras_own_sweepers_and_launchers_work_by_name(name, tmp_path):
    """Each trains its runs, leaves the store as ours would, and optuna's is told what to minimize."""
    command = [sys.executable, "-m", "runner", "--multirun", *NAMED[name], *TINY, f"outputs={tmp_path}"]
    done = processes.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("1 runs: 1 finished") == 2, done
    folders = list(tmp_path.glob("runs/scratch/*/summary.json"))
    losses = [json.loads(path.read_text())["final_loss"] for path in folders]
    assert len(losses) == 2
    if name == "optuna":
        best = OmegaConf.load(tmp_path / "hydra" / "optimization_results.yaml")
        assert best.best_value == min(losses) < max(losses)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "hydra"}  # Hydra's files stay under outputs, too


def test_hydras_own_sweeper_refuses_an_experiment_with_baselines(cli):
    code, _, err = cli("experiment=lm_lr_sensitivity", "hydra/sweeper=basic")
    assert code == 2 and "hydra.sweeper.baselines: only the project's own sweeper knows it" in err


def test_a_launcher_without_its_sweeper_is_refused(cli, outputs):
    code, _, err = cli("--multirun", "hydra/launcher=joblib", "seed=0,1", *TINY)
    assert code == 2 and "hydra/launcher=joblib" in err and "hydra/sweeper=basic" in err and not outputs.exists()


def test_a_diverged_run_is_the_worst_objective(tmp_path):
    config = configure(*TINY, "optimizer=sgd", "optimizer.lr=1e6", f"outputs={tmp_path}")
    assert run(OmegaConf.structured(config)) == math.inf

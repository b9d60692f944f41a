"""The Python API: the command line's store, checks and stacks, and the tables of `analysis`."""

import json
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import analysis
import runner
from runner.config.compose import CONF
from runner.sweeps import execute as execute_module
from runner.sweeps.executors import base

TINY = {"task": {"width": 16, "teacher_width": 16, "train_points": 20}, "steps": 20}
DOCS = Path(__file__).resolve().parent.parent / "docs"


def sweep(outputs, *overrides, **values):
    return runner.sweep(*overrides, **{**TINY, "outputs": outputs, **values})


def test_a_sweep_gives_the_tables_of_its_own_runs(outputs):
    sweep(outputs, seed=7)  # another run in the same folder
    result = sweep(outputs, "init=gaussian_A,gaussian_B", "optimizer.lr=1e-3,1e-2", seed=[0, 1])
    assert len(result.runs) == 8 and set(result.runs["seed"]) == {0, 1}
    assert set(result.status["status"]) == {"finished"}
    everything = analysis.load(result.folders[0])
    assert result.steps.shape[1] == everything.shape[1] and len(result.steps) == 8 * 21 < len(everything)


def test_the_command_line_finds_its_runs_done(cli, outputs):
    sweep(outputs, "init=gaussian_A,gaussian_B")
    values = [f"task.{name}={value}" for name, value in TINY["task"].items()]
    code, out, _ = cli("-m", "init=gaussian_A,gaussian_B", "steps=20", *values)
    assert code == 0 and "2 skipped" in out
    assert set(sweep(outputs, "init=gaussian_A,gaussian_B").status["status"]) == {"skipped"}


def test_values_of_every_kind(outputs):
    folder = str(outputs / "a folder, with 'quotes'")
    result = sweep(folder, **{"optimizer.lr": np.float64(1e-2), "optimizer.clip": None, "task.residual": False})
    run = result.runs.iloc[0]
    assert run["optimizer.lr"] == 1e-2 and not run["task.residual"] and run["outputs"] == folder


@pytest.mark.parametrize(
    ("overrides", "values", "message"),
    [
        (["optimizer.lr=-1"], {}, "optimizer.lr=-1.0: must be a finite number above 0"),
        ([], {"init": "foo"}, "init=foo: unknown; choose one of corda, etf"),
        ([], {"widht": 3}, "unknown key 'widht'"),
        (["seed=["], {}, "cannot be read as an override"),
        (["experiment=lr_vs_widht"], {}, "did you mean lr_vs_width?"),
    ],
)
def test_a_bad_value_raises_the_message_of_the_command_line(outputs, overrides, values, message):
    with pytest.raises(runner.ConfigError) as raised:
        sweep(outputs, *overrides, **values)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not list(outputs.glob("runs/*/*"))


def test_ctrl_c_keeps_what_is_finished(outputs, monkeypatch):
    train = base.train

    def interrupted(configs, progress, ahead):
        if configs[0].task.width == 16:
            raise KeyboardInterrupt
        return train(configs, progress)

    monkeypatch.setattr(base, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(outputs, **{"task.width": [16, 32]}, workers=1)
    metas = [json.loads(path.read_text()) for path in outputs.glob("runs/*/*/meta.json")]
    assert sorted(meta["status"] for meta in metas) == ["finished", "interrupted"]


def test_the_example_runs_in_a_notebook_kernel(outputs, monkeypatch):
    """As it is committed, but for where it writes and how long it trains; and its figure is there."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(DOCS / "example.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    [train] = [cell for cell in cells if "steps=300" in cell.source]
    train.source = train.source.replace("steps=300", f"steps=20, outputs={str(outputs)!r}")
    assert str(outputs) in train.source
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(DOCS.parent)}}
    ).execute()
    kinds = {kind for cell in cells for out in cell.outputs for kind in out.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert len(list(outputs.glob("runs/from_notebook/*/meta.json"))) == 60


def test_several_experiments_are_one_result(outputs):
    result = sweep(outputs, "experiment=lr_vs_width,first_step", seed=0, **{"optimizer.lr": [1e-3, 1e-2]})
    assert len(result.runs) == len(result.status) == 10
    assert set(result.runs["experiment"]) == {"lr_vs_width", "first_step"}


def test_a_hydra_of_the_program_around_is_left_as_it_was(outputs):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        sweep(outputs)
        assert GlobalHydra.instance().hydra is before


@pytest.mark.parametrize("value", [[], {1, 2}, object()])
def test_values_that_are_none_are_refused(outputs, value):
    with pytest.raises(runner.ConfigError, match="seed="):
        sweep(outputs, seed=value)


def test_a_script_may_sweep_with_workers(outputs):
    """Without a guard for its main module, which workers do not run once more."""
    call = f"runner.sweep('seed=0,1', task={TINY['task']}, steps=20, workers=2, outputs={str(outputs)!r})"
    script = f"import runner; print(len({call}.runs))"
    (outputs.parent / "script.py").write_text(script)
    command = [sys.executable, str(outputs.parent / "script.py")]
    done = processes.run(command, capture_output=True, text=True, timeout=120, cwd=outputs.parent)
    assert done.stdout == "2\n", done.stderr


def test_one_sweep_at_a_time(outputs):
    with execute_module._sweeping, pytest.raises(RuntimeError, match="another sweep is under way"):
        sweep(outputs)


@pytest.mark.parametrize("override", [3, None, b"seed=1", ["seed=1"]])
def test_an_override_that_is_no_text_is_refused(outputs, override):
    with pytest.raises(runner.ConfigError, match="is no override"):
        sweep(outputs, override)


def test_a_result_is_shown_in_a_line(outputs):
    assert repr(sweep(outputs, seed=[0, 1])) == "<sweep of 2 runs: 2 finished>"

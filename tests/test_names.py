"""Names of ad-hoc sweeps, `--help`, and what a sweep suggests next."""

import pytest

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=3"]


def test_a_new_name_is_said_once_and_names_the_folder(cli, outputs):
    code, out, err = cli("experiment=my_name", *TINY)
    assert code == 0 and len(list(outputs.glob("runs/my_name/*/meta.json"))) == 1
    assert err == f"experiment=my_name: a new name; its runs go to {outputs}/runs/my_name\n"
    assert "--experiment my_name" in out
    assert cli("-m", "experiment=my_name", "seed=0,1", *TINY)[2] == ""  # it is known now


@pytest.mark.parametrize(
    ("name", "meant"), [("lr_vs_widht", "lr_vs_width"), ("init_zo", "init_zoo"), ("frist", "first")]
)
def test_a_near_miss_is_refused_with_the_suggestion(cli, outputs, name, meant):
    code, _, err = cli(f"experiment={name}", *TINY)
    assert code == 2 and f"experiment={name}: did you mean {meant}?" in err
    assert not outputs.exists()


def test_a_name_that_has_a_file_in_a_folder_of_ones_own_is_that_experiment(cli, outputs, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nexperiment: own\nseed: 5\n")
    code, _, err = cli("--config-dir", str(tmp_path / "mine"), "experiment=own", *TINY)
    assert code == 0 and err == ""
    assert "seed: 5" in next(outputs.glob("runs/own/*/config.yaml")).read_text()


def test_a_folder_of_ones_own_is_not_forgotten(cli, tmp_path, monkeypatch):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").touch()
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("experiment=own", *TINY)
    assert code == 2 and "experiment=own: mine/experiment/own.yaml is not read without --config-dir mine" in err


@pytest.mark.parametrize("name", ["o'hara", "a'b\\'c"])
def test_a_folder_of_ones_own_has_any_name(cli, outputs, tmp_path, name):
    (tmp_path / name / "experiment").mkdir(parents=True)
    (tmp_path / name / "experiment" / "own.yaml").write_text("# @package _global_\nexperiment: own\nseed: 5\n")
    code, out, err = cli("--config-dir", str(tmp_path / name), "experiment=own", "--help")
    assert code == 0 and "seed: 5  # " in out, err
    code, _, err = cli("-m", "--config-dir", str(tmp_path / name), "experiment=own,gradient_norms", "steps=0")
    assert code == 2 and err.startswith("error: steps=0: must be"), err


def test_a_new_name_has_help_and_a_misspelled_one_a_suggestion(cli):
    code, out, err = cli("experiment=my_name", "--help")
    assert code == 0 and "\nexperiment: my_name  # " in out, err
    assert "did you mean first?" in cli("experiment=frist", "--help")[2]


def test_help_tells_of_every_field_its_meaning_and_what_it_takes(cli):
    code, out, _ = cli("init=etf", "adapter=dora", "--help")
    assert code == 0
    assert "vectors: rows  # rows: a simplex of r vectors" in out and "(rows | columns)" in out
    assert "norm_gradient: false  # whether gradients pass" in out
    undocumented = [
        line for line in out.splitlines() if ": " in line and "  # " not in line and not line.startswith("python")
    ]
    assert undocumented == []


@pytest.mark.parametrize(
    ("axes", "figures"),
    [
        ([], "feature_norms gradient_norms"),
        (["optimizer.lr=1e-3,1e-2,1e-1"], "lr_sensitivity feature_norms gradient_norms"),
        (
            ["optimizer.lr=1e-3,1e-2,1e-1", "task.width=8,16,32"],
            "lr_vs_width lr_sensitivity feature_norms gradient_norms",
        ),
    ],
)
def test_the_suggested_figures_fit_the_runs(cli, axes, figures):
    _, out, _ = cli("-m", *TINY, *axes)
    assert f"next:  python -m analysis {figures} --experiment scratch" in out

"""`python -m analysis` on runs of no experiment's own: nothing is written but figures, and what is missing is said."""

import shlex
import shutil
from pathlib import Path

import pytest
from conftest import command
from synthetic import sweep

from analysis import figures, report
from analysis.__main__ import main
from analysis.tables.records import record_path
from analysis.tables.tables import Tables
from analysis.tables.where import Condition

TINY = ["task.teacher_width=16", "task.train_points=20", "steps=15", "optimizer.lr=1e-3,1e-2,1e-1"]
WIDE = ["task.width=8,16,32", "init=gaussian_A,gaussian_B", "seed=0,1"]  # 36 runs
OTHER = ["task.width=16", "adapter.rank=8", "init=gaussian_A,gaussian_B"]  # 6 runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("trained")
    for sweep_of in (WIDE, OTHER):
        command("--multirun", *TINY, *sweep_of, f"outputs={outputs}")
    return outputs


@pytest.fixture
def store(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "outputs"))


@pytest.fixture
def analyse(store, capsys):
    """`analyse("lr_sensitivity", …)` -> (exit code, stdout, stderr)."""

    def run(*arguments):
        try:
            code = main([*arguments, "--outputs", str(store)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def written(store):
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file() and "runs" not in path.parts}


def test_runs_of_no_figure_leave_no_record(analyse, store, undrawn):
    """And so there is none that fewer runs could not replace. Under the name of a figure's own there is."""

    def drawn_from(name):
        for _ in range(2):
            code, out, err = analyse("gradient_norms", "--experiment", name, "--where", "adapter.rank=4")
            assert code == 0 and "drew" in out, err
            assert not (store / "records").exists() and "kept" not in out
            shutil.rmtree(next((store / "runs" / name).glob("*/")))

    drawn_from("scratch")
    assert {name.rpartition(".")[0] for name in written(store)} == {"figures/scratch/adapter.rank=4/gradient_norms"}
    shutil.copytree(store / "runs" / "scratch", store / "runs" / "lr_vs_width")
    assert analyse("gradient_norms", "--experiment", "lr_vs_width")[0] == 0
    before = record_path(store, "lr_vs_width").read_bytes()
    code, out, _ = analyse("gradient_norms", "--experiment", "lr_vs_width", "--where", "adapter.rank=8")
    assert code == 0 and "runs with adapter.rank=8" in out and record_path(store, "lr_vs_width").read_bytes() == before


def test_the_largest_setting_is_drawn_and_the_other_can_be_chosen(analyse):
    code, out, err = analyse("lr_sensitivity", "--experiment", "scratch")
    assert code == 0 and "using the 36 with adapter.rank=4, adapter.alpha=4, leaving out 6" in err
    choice = shlex.split(err.split("choose others with: ")[1])
    code, out, err = analyse("lr_sensitivity", "--experiment", "scratch", *choice)
    assert code == 0 and "scratch: 6 of 42 runs with adapter.rank=8" in out and not err


def test_a_table_holds_the_chosen_runs_alone(store):
    for rank, count in ((4, 36), (8, 6)):
        table = Tables(store, [Condition.parse(f"adapter.rank={rank}")]).get("scratch")
        assert set(table["adapter.rank"]) == {rank} and table["run_id"].nunique() == count


def test_a_record_stands_in_where_there_are_no_runs(analyse, store, undrawn):
    for name in ("mine", "lr_vs_width"):
        record_path(store, name).parent.mkdir(exist_ok=True)
        sweep().to_parquet(record_path(store, name))
        code, out, err = analyse("lr_vs_width", "--experiment", name, "--where", "task.width=128,256,512")
        assert code == 0 and f"{name}: 420 of 560 runs" in out, err
    code, _, err = analyse("lr_vs_width", "--experiment", "mine", "--where", "task.width=100")
    assert code == 2 and "there are 128, 256, 512, 1024" in err
    code, _, err = analyse("lr_vs_width", "--experiment", "yours")
    assert code == 2 and f"{store}/runs/yours: is not there; name a folder of {store}/runs" in err


def test_few_runs_do_not_stand_in_for_a_record_of_more(analyse, store, undrawn):
    record_path(store, "lr_vs_width").parent.mkdir()
    sweep().to_parquet(record_path(store, "lr_vs_width"))
    (store / "runs" / "scratch").rename(store / "runs" / "lr_vs_width")
    assert "420 of 560" in analyse("lr_vs_width", "--where", "task.width=128,256,512")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "scratch", "--where", "rank=8"], "did you mean adapter.rank?"),
        (["--experiment", "scratch", "--where", "adapter.rank=2"], "there are 4, 8"),
        (["--where", "adapter.rank"], "is not FIELD=VALUE"),
        (["--experiment", "scratch", "--where", "adapter.rank=8", "--where", "task.width=8"], "together"),
        (["--experiment", "nowhere"], "is not there"),
        (["--experiment", "scratch", "--publish", "a file"], "leave out figures, --experiment and --where"),
    ],
)
def test_a_mistake_is_one_message(analyse, store, arguments, message):
    code, _, err = analyse(*arguments)
    assert code == 2 and message in err and "Traceback" not in err and written(store) == set()
    assert len([line for line in err.splitlines() if "error:" in line]) == 1


def test_one_message_where_no_experiment_has_such_runs(analyse, store):
    (store / "records").mkdir()
    sweep().to_parquet(record_path(store, "lr_vs_width"))
    sweep().to_parquet(record_path(store, "width_exponents"))
    code, out, err = analyse("--where", "wdith=128")
    assert code == 2 and err.count("did you mean task.width?") == 1 and "left out" not in out


def test_without_names_all_is_drawn_that_can_be(analyse, store):
    code, out, _ = analyse("--experiment", "scratch")
    assert code == 0
    shown = {name for name in figures.NAMES if (store / "figures" / "scratch" / f"{name}.png").exists()}
    assert {"first_step", "lr_sensitivity", "lr_vs_width", "headline", "gradient_norms", "increments"} <= shown
    left_out = {line.split(":")[0].removeprefix("left out "): line for line in out.splitlines() if "left out" in line}
    assert shown | set(left_out) == set(figures.NAMES) and not shown & set(left_out)
    assert f"python -m runner -m optimizer.lr_ratio=1,4,16 outputs={store}" in left_out["lora_plus"]
    assert "runs of teacher_student are compared by the loss that they minimize" in left_out["lm_dynamics"]
    assert "log.layers=true" in left_out["dora_directions"]
    assert "| 1a" in out and "| 3b" in out and "| 8a" not in out
    claims = (store / "figures" / "scratch" / "claims.md").read_text()
    assert claims.strip() in out and not (store / "claims.md").exists() and not (store / "records").exists()


def test_runs_that_the_theory_does_not_speak_of_are_drawn_without_its_claims(analyse, store):
    code, out, _ = analyse("--experiment", "scratch", "--where", "init.name=gaussian_A", "--where", "adapter.rank=8")
    assert code == 0 and "| 1a" in out and "| 3a" not in out
    assert "left out lr_vs_width: needs 2 or more of task.width" in out


def test_claims_are_published_between_markers(analyse, store, undrawn):
    (store / "records").mkdir()
    sweep().to_parquet(record_path(store, "lr_vs_width"))
    page = store / "page.md"
    for text in ("no markers", f"{report.END}\n{report.START}", report.START):
        page.write_text(text)
        assert analyse("--publish", str(page))[0] == 2 and page.read_text() == text
    page.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    assert analyse("--publish", str(page))[0] == 0
    table = (store / "claims.md").read_text().strip()
    assert page.read_text() == f"before\n{report.START}\n\n{table}\n\n{report.END}\nafter\n"

"""Searches as commands: rounds through the planner, a state that is a function of the store, budgets, messages."""

import random
import re
import signal

import pytest
import yaml
from conftest import command, rejects
from sweeps import at_once, killable, same_store

import runner
from runner.config import ConfigError
from runner.config.identity import run_id
from runner.store.runs import Store
from runner.sweeps import execute
from runner.sweeps import search as module
from runner.sweeps.rates import powers, rate

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=20"]
SEARCH = ["-m", *TINY, "seed=0,1,2", "init=gaussian_A,gaussian_B", "optimizer.lr=interval(1e-4,1)"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The root folder of `SEARCH` as it ends when nothing happens to it."""
    outputs = tmp_path_factory.mktemp("whole")
    command(*SEARCH, f"outputs={outputs}")
    return outputs


def rates_of(outputs):
    """Of all stored runs: init -> rate -> seeds."""
    found = {}
    for path in outputs.glob("runs/scratch/*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        of_init = found.setdefault(config["init"]["name"], {})
        of_init.setdefault(config["optimizer"]["lr"], set()).add(config["seed"])
    return found


def test_a_search_brackets_the_best_rate_of_each_setting_on_the_lattice(whole):
    lattice = {rate(power) for power in powers(1e-9, 1e3)}
    for rates in rates_of(whole).values():
        assert rates.keys() <= lattice
        complete = sorted(lr for lr, seeds in rates.items() if seeds == {0, 1, 2})
        assert len(complete) >= 3 and all(len(seeds) >= 2 for seeds in rates.values())
        assert len(complete) < len(rates)  # not all rates have all seeds


def test_the_same_search_again_trains_nothing_and_a_grid_shares_its_runs(whole, cli, outputs):
    outputs.symlink_to(whole)
    code, out, _ = cli(*SEARCH)
    count = len(list(whole.glob("runs/scratch/*/meta.json")))
    assert code == 0 and out.startswith(f"{count} runs: {count} skipped")
    code, out, _ = cli("-m", *TINY, "seed=0,1", "optimizer.lr=0.015625,0.125")  # of the coarse round
    assert code == 0 and out.startswith("4 runs: 4 skipped")


def test_killed_at_random_moments_it_asks_for_the_same_runs(whole, tmp_path):
    moments, killed = random.Random(1), 0
    with killable(*SEARCH) as sweep:
        code, operations = sweep(tmp_path / "first")
        assert code == 0
        for trial in range(1):
            outputs = tmp_path / f"{trial}"
            for most in (operations, operations // 2, 0):
                code, _ = sweep(outputs, moments.randint(1, most) if most else 0, moments.choice((1, 3000)))
                if code != -signal.SIGALRM:
                    break
                killed += 1
            assert code == 0
            same_store(outputs, whole)
    assert killed
    victim = next(outputs.glob("runs/scratch/*/steps.parquet"))
    victim.write_bytes(victim.read_bytes() + b" ")
    rejects(same_store, outputs, whole)


def test_two_searches_at_once_share_the_work(whole, tmp_path):
    told = at_once(2, *SEARCH, f"outputs={tmp_path}", "workers=1")
    assert [code for code, _ in told] == [0, 0], told
    trained = sum(sum(map(int, re.findall(r"(\d+) (?:finished|diverged)", out))) for _, out in told)
    assert trained == len(list(whole.glob("runs/scratch/*/meta.json")))
    same_store(tmp_path, whole)


def test_known_runs_and_searches_go_together(cli, outputs, tmp_path):
    """Grids of an experiment file of which one has an interval; and values of other axes each have a search of their own."""
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "both.yaml").write_text(
        "# @package _global_\nexperiment: both\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 0,1\n"
        "    grids:\n      - optimizer.lr: 0.01,0.02\n      - optimizer.lr: interval(0.001,0.1)\n        adapter.rank: 1,2\n"
    )
    code, out, err = cli("experiment=both", "--config-dir", str(folder.parent), *TINY, "--dry-run")
    assert code == 0 and not outputs.exists()
    assert "first round of 2 searches" in out and out.startswith(f"{4 + 2 * 2 * 6} runs to train"), (out, err)


def test_a_search_ends_where_a_run_fails(cli, monkeypatch):
    real = module.Search._config

    def broken(self, point, seed):
        config = real(self, point, seed)
        config.optimizer.beta1 = "no number" if rate(point[0]) == 0.015625 and seed == 1 else config.optimizer.beta1
        return config

    monkeypatch.setattr(module.Search, "_config", broken)
    code, out, _ = cli(*SEARCH, "init=gaussian_A", "workers=1")
    assert code == 1 and re.match(r"10 runs: .*1 failed", out)


def test_budgets_end_a_search_between_rounds(cli, monkeypatch):
    code, out, _ = cli(*SEARCH, "search.max_runs=25")
    runs = int(re.match(r"(\d+) runs", out)[1])
    assert code == 0 and 20 <= runs <= 25
    assert (
        "search.max_runs=25 is spent, with 2 searches unfinished; the same command with more goes on from here" in out
    )
    monkeypatch.setattr(module.time, "monotonic", iter(range(0, 10**9, 60)).__next__)  # a minute a look
    code, out, _ = cli(*SEARCH, "search.minutes=0.5")
    assert code == 0 and out.startswith("20 runs: 20 skipped") and "search.minutes=0.5 is spent" in out


def test_loraplus_is_searched_along_both_axes(cli, outputs):
    code, *_ = cli(
        "-m", *TINY, "seed=0,1", "optimizer.lr=interval(1e-3,1)", "optimizer.lr_ratio=interval(0.5,64)", "workers=1"
    )
    assert code == 0
    found = {
        (config["optimizer"]["lr"], config["optimizer"]["lr_ratio"])
        for config in (yaml.safe_load(p.read_text()) for p in outputs.glob("runs/scratch/*/config.yaml"))
    }
    assert len({lr for lr, _ in found}) > 3 and len({ratio for _, ratio in found}) > 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["-m", "steps=interval(1,9)"],
            "steps=interval(1,9): only optimizer.lr and optimizer.lr_ratio are searched; give steps",
        ),
        (["-m", "optimizer.lr=interval(1,1e-6)"], "interval of rates goes from a number above 0 to a larger one"),
        (["-m", "optimizer.lr=interval(1,1)"], "interval of rates goes from a number above 0 to a larger one"),
        (["-m", "optimizer.lr=interval(0,1)"], "interval of rates goes from a number above 0 to a larger one"),
        (["-m", "optimizer.lr=interval(-1,1)"], "interval of rates goes from a number above 0 to a larger one"),
        (["-m", "optimizer.lr=interval(1e-3,inf)"], "interval of rates goes from a number above 0 to a larger one"),
        (["-m", "optimizer.lr=interval(nan,1)"], "interval of rates goes from a number above 0 to a larger one"),
        (["-m", "optimizer.lr=interval(1)"], "optimizer.lr=interval(1): cannot be read"),
        (["optimizer.lr=interval(1e-3,1)"], "optimizer.lr=interval(1e-3,1): a sweep takes -m"),
        (["-m", "optimizer.lr=interval(1e-6,1)", "seed=0,1", "search.max_runs=3"], "the first round alone has 14 runs"),
        (["search.within=1"], "search.within=1.0: must be a finite number above 1"),
        (["search.max_runs=0"], "search.max_runs=0: must be an integer from 1"),
        (["search.minutes=0"], "search.minutes=0.0: must be a finite number above 0"),
    ],
)
def test_bad_input_is_one_message(cli, outputs, arguments, says):
    code, out, err = cli(*TINY, *arguments)
    assert code == 2 and says in err and err.count("\n") == 1 and not out and not list(outputs.glob("runs/*/*"))


def test_a_script_can_search_too(tmp_path):
    tiny = {"task.width": 16, "task.teacher_width": 16, "task.train_points": 20, "steps": 5}
    result = runner.sweep("optimizer.lr=interval(1e-3,1)", seed=[0, 1], outputs=str(tmp_path), **tiny)
    assert result.runs["optimizer.lr"].nunique() >= 4 and len(result.runs) == len(result.configs)
    with Store(str(tmp_path)) as store:
        assert all(store.path(config).name == run_id(config) for config in result.configs)
    with pytest.raises(ConfigError, match="only optimizer"):
        runner.sweep("steps=interval(1,9)", outputs=str(tmp_path))


def test_rates_of_the_command_line_replace_an_experiments_search(cli):
    for given, runs in (("optimizer.lr=0.01", 15), ("optimizer.lr=1e-3,1e-2", 30)):
        code, out, _ = cli("experiment=advise", given, *TINY, "--dry-run")
        assert code == 0 and out.startswith(f"{runs} runs to train") and "search" not in out
    code, out, _ = cli(
        "experiment=first", "optimizer.lr=interval(1e-3,1)", *TINY, "task.width=16", "seed=0", "--dry-run"
    )
    assert code == 0 and out.startswith("8 runs to train") and "first round of 2 searches" in out


def test_ctrl_c_between_rounds_keeps_what_is_trained(cli, monkeypatch):
    real, calls = execute.plan, []

    def plan(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(execute, "plan", plan)
    code, out, _ = cli(*SEARCH, "init=gaussian_A", "workers=1")
    assert code == 130 and "interrupted: the same command trains what is left" in out and "(init=gaussian_A)" in out


def test_a_forecast_counts_runs_once_and_is_for_the_command_line(cli, tmp_path):
    assert cli("-m", "seed=0,0", *TINY, "--dry-run")[1].startswith("1 run to train")
    with pytest.raises(ConfigError, match="--dry-run: is for the command line"):
        runner.sweep("--dry-run", outputs=str(tmp_path))
    code, _, err = cli("-m", *TINY, "optimizer.lr=interval(1e-3,1)", "search.within=2,3")
    assert code == 2 and "search: must be the same for all runs of a sweep" in err

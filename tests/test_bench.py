"""The bench compares like with like: every contestant trains the same runs, to the same losses."""

import json
import subprocess

import numba
import pytest
import torch
from conftest import rejects

import analysis
from bench import ceilings, contestants, costs, language, loading, overhead, quick, real, variants, waiting
from bench.__main__ import configs, off, turn
from bench.report import report
from runner.config.identity import with_values
from runner.training.start import build_adapters
from runner.training.train import build_task

STEPS = 6


def runs(**values):
    changes = {"steps": STEPS, "task.width": 64, "task.train_points": 100, "task.teacher_width": 50, **values}
    return [with_values(config, changes) for config in configs(64, 6)]


def agree(losses, expected):
    torch.testing.assert_close(losses, expected, rtol=2e-5, atol=0)  # float32, six steps


CONTESTANTS = {
    "plain loop": (contestants.plain_loop, {}),
    "PEFT": (contestants.peft, {}),
    "vmap": (contestants.vmap, {}),
    "general": (contestants.engine, {"engine": "autograd"}),
    "fused": (contestants.engine, {"engine": "fused"}),
}


def test_all_contestants_end_with_the_same_losses():
    ticks = []
    losses = {}
    for name, (contestant, values) in CONTESTANTS.items():
        ticks.clear()
        losses[name] = contestant(runs(**values), lambda: ticks.append(1))
        assert len(ticks) == STEPS, name
        alone = contestant(runs(**values)[3:], lambda: None)  # those that train one run train the first
        agree(losses[name][:1], losses["plain loop"])
        if len(losses[name]) > 1:
            agree(losses[name], losses["vmap"])
            agree(alone[:1], losses[name][3:4])
        rejects(agree, alone[:1], losses["plain loop"])
        agree(contestant(off(runs(**values)), lambda: None), losses[name])


def test_measuring_counts_steps_and_runs(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("bench.__main__.perf_counter", lambda: next(clock))
    assert turn(contestants.plain_loop, runs()[:1], STEPS) == 1.0  # a tick of this clock is a step


def test_the_ceilings_are_of_a_computers_order():
    """A core makes up to 200 billion multiply-adds a second, memory moves up to 1000 GB; a busy machine less, but some."""
    assert 1e8 < ceilings.multiply_adds_per_second(500) / numba.get_num_threads() < 2e11
    assert 1e8 < ceilings.bytes_per_second(2**22) < 1e12


def test_the_report_shows_the_best_of_the_rounds():
    names = ("plain loop", "plain loop, no metrics", "PEFT", "vmap", "general", "fused", "fused, no metrics")
    measured = {"ms": {name: [9.0, 2.0, 8.0] for name in names}, "MB": dict.fromkeys(names, 5.4)}
    measured["ms"]["fused"] = [0.5, 0.25, 0.5]
    row = {"n": 128, "runs": 28, "general_stack": 7, "multiply_adds": 1e6, "bytes": 1e3, **measured}
    stack = {"n": 128, "runs": 64, "ms": {"general": [1.0], "fused": [1.0]}}
    model = {
        "n": 64,
        "flops": 4e6,
        "MB": {"compiled": 100.0},
        "side by side": {key: [9.0, 8.0] for key in language.CONTESTANTS} | {"compiled": [4.0, 5.0]},
        "ms": {key: [6.0, 7.0] for key in language.CONTESTANTS} | {"compiled": [3.0, 4.0], "compiled, bare": [2.0]},
    }
    result = {
        "language_models": [model],
        "matmul_flops_per_second": 2e9,
        "threads": 2,
        "multiply_adds_per_second": 2 * 1e6 / 0.25e-3,
        "bytes_per_second": 1e9,
        "widths": [row],
        "stacks": [stack],
        "overhead": [{"sweep by": "ours", "ms a run": 3.0}],
        "loading": [{"read by": "a reader", "seconds": 1.25}],
        "costs": {
            "runs": [{"runs": k, "ms": {"autograd": [9.0 / k, 8.0 / k]}} for k in (1, 4, 16)],
            "tokens": [{"tokens": t, "ms": {"PEFT, bare": [2.0 * t], "autograd": [0.1 * t**1.5]}} for t in (64, 128)],
        },
        "real": {
            "ms": {name: [300.0, 200.0] for name in real.CONTESTANTS} | {"stack": [100.0, 150.0]},
            "start": 7.25,
            "MB": 2000.0,
            "told MB": 2100.0,
        },
        "variants": {
            "steps": {"a place": {"lora": [2.0, 3.0], "dora": [4.0, 3.0], "vera": [1.0], "PEFT, dora": [12.0]}},
            "memory": {"dense": 1000.0, "lora": 10.0, "dora": 20.0},
        },
    }
    text = report(result)
    [ratios] = [line for line in text.splitlines() if line.startswith("| 128 |") and "0.5 |" in line]
    cells = [cell.strip() for cell in ratios.split("|")[1:-1]]
    assert cells[:5] == ["128", "8", "1", "0.125", "0.5"]  # 2 / 0.25, 2 / 2, 0.25 / 2, half the ceiling
    one, two = language.table(result)
    assert one["bare PEFT / compiled"] == "2.00 (1.75–2.00)" and one["metrics on / off"] == 1.5
    assert two["bare PEFT / compiled"] == "2.00 (1.60–2.25)" and two["share of matmul peak"] == 0.5
    [places] = variants.table(result["variants"])
    assert places["dora / LoRA"] == 1.5 and places["vera / LoRA"] == 0.5 and places["PEFT / stack, DoRA"] == 4
    assert "10 MB for LoRA, 20 MB for DoRA" in text
    assert "| a reader | 1.25 |" in " ".join(text.split())
    [by_runs, by_length] = [line.split() for line in text.splitlines() if "exponent |" in line]
    assert by_runs[3] == "-1" and by_length[3:6:2] == ["1", "1.5"]
    assert costs.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    stack = next(row for row in real.table(result["real"]) if row[""] == "stack")
    assert stack["ms per run and step"] == 100 and stack["bare PEFT / it"] == "2.00 (1.33–3.00)"
    assert "in the time of 7.2 steps of a run, and takes 2000 MB; the command says 2100 MB" in text
    assert "2 (7)" in text and "| 64 | – |" in " ".join(text.split())


def test_what_a_change_cost_is_told_and_fails_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(quick, "KEPT", tmp_path / "quick.json")
    before = {"as fast": 10.0, "a third lost": 9.0, "a quarter lost": 8.0}
    assert "0 of 3 lost" in quick.report(before)
    assert not quick.KEPT.exists()
    quick.report(before, keep=True)
    text = quick.report({"as fast": 10.0, "a third lost": 6.0, "a quarter lost": 6.0, "new": 1.0})
    assert [line.split("  ")[0] for line in text.splitlines() if line.endswith("LOST")] == ["a third lost"]
    assert "1 of 4 lost more than 30%" in text and "-33%" in text and "-25%" in text


def test_what_is_kept_are_ratios_of_this_bench(monkeypatch):
    rounds = {
        "ms": {name: [4.0, 2.0] for name in ("plain loop", "general", "fused", "fused, no metrics", "PEFT", "autograd")}
    }
    ratios = quick.measure(lambda *_: rounds, lambda *_: rounds)
    assert ratios.keys() == json.loads(quick.KEPT.read_text()).keys() and set(ratios.values()) == {1.0}


@pytest.mark.parametrize("name", [*overhead.SWEEPERS][::2])  # `test_sweeper` has joblib's launcher
def test_a_sweep_of_every_kind_can_be_timed(name, tmp_path):
    overrides, _ = overhead.SWEEPERS[name]
    assert overhead.seconds(str(tmp_path), 2, overrides) > 0
    assert len(list(tmp_path.glob("runs/scratch/*/meta.json"))) == 2


def test_threads_are_timed_that_spin_and_that_sleep(monkeypatch):
    """The same command, but for what the OpenMP runtime reads."""
    shown = ["-c", "import os, sys; sys.exit(os.environ.get(sys.argv[1]) != sys.argv[2])"]
    for policy, name, value in (("spin", "GOMP_SPINCOUNT", "300000"), ("sleep", "OMP_WAIT_POLICY", "passive")):
        assert waiting.seconds([*shown, name, value], waiting.POLICIES[policy]) > 0
        with pytest.raises(subprocess.CalledProcessError):
            waiting.seconds([*shown, name, value], {})
    monkeypatch.setattr(waiting, "WORKS", {"nothing": ["-c", ""]})
    loads, load = [], waiting.load
    monkeypatch.setattr(waiting, "load", lambda processes: loads.append(processes) or load(processes))
    assert [row["others a core"] for row in waiting.measure(rounds=1)] == ["0", "1", "3"]
    assert loads == [0, waiting.CORES, 3 * waiting.CORES]


def test_the_store_that_is_read_is_one_of_distinct_runs_without_damage(tmp_path):
    folder = loading.store(tmp_path, 30, 4)
    for read, rows in ((analysis.load, 30 * 5), (analysis.runs, 30)):
        table = read(folder)  # damage would be a warning, and so an error here
        assert len(table) == rows and table["run_id"].nunique() == 30
        assert len(table[["init.name", "optimizer.lr", "seed"]].drop_duplicates()) == 30
    (row, _) = loading.measure(2, 4, 1)
    assert row["runs"] == "2" and row["seconds"] > 0


def test_language_models_of_both_contestants_train_the_same_run(tmp_path, monkeypatch):
    """With PEFT and in a stack: the same losses after some steps, which another learning rate does not give."""
    monkeypatch.chdir(tmp_path)
    configs = [
        with_values(c, {"steps": 4, "task.layers": 1, "task.sequence_length": 16, "log.every": 1})
        for c in language.configs(32)[:3]
    ]

    together = contestants.engine(configs, lambda: None)
    for k in (0, 1):
        agree(language.peft(configs[k:], lambda: None), together[k : k + 1])
    rejects(agree, language.peft(configs, lambda: None), together[2:])


def test_flops_of_a_language_model_are_those_of_its_products(tmp_path, monkeypatch):
    """Counted by torch's own counter on a forward and backward pass, without attention, which it counts apart."""
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.chdir(tmp_path)
    config = with_values(language.configs(64)[0], {"task.layers": 2})
    task = build_task([config]).to(torch.device("cpu"), torch.float32)
    adapters = build_adapters([config], task, torch.device("cpu"), torch.float32)
    with FlopCounterMode(display=False) as counter:
        task.loss_and_grad(adapters)
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    ours = language.flops(config, task)
    assert abs(products / ours - 1) < 0.05

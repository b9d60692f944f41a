"""Arguments of a command: where flags may stand, what is said when, how large runs and sweeps may be; random configurations."""

import random
import subprocess
import sys

import fuzz
import processes
import pytest
from conftest import configure, rejects
from hydra.core.override_parser.overrides_parser import OverridesParser

import runner
from runner.config import ConfigError
from runner.config.command import MOST_RUNS, count_runs, read
from runner.config.registry import TASKS
from runner.sweeps import memory
from runner.sweeps.memory import check_fits
from runner.sweeps.plan import stacks
from runner.tasks.toy import ToyTask

TINY = ["task.width=16", "task.teacher_width=16", "task.train_points=20", "steps=2"]


def test_flags_stand_anywhere_and_the_last_of_two_values_counts(cli, outputs):
    assert "2 runs: 2 finished" in cli("seed=1,3", *TINY, "-m", "seed=2", "optimizer.lr=1e-3,1e-2")[1]
    [*files] = outputs.glob("runs/*/*/config.yaml")
    assert all("seed: 2" in file.read_text() for file in files) and len(files) == 2


@pytest.mark.parametrize("bad", ["seed=abc", "lr=3", "task.width=0"])
def test_a_new_name_is_not_said_before_an_error(cli, bad):
    err = cli("experiment=my_name", bad)[2]
    assert err.startswith("error: ") and err.count("\n") == 1


def test_a_text_that_no_file_can_bear_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"outputs='.*\\x00b': has characters that cannot be printed"):
        runner.sweep(outputs=f"{tmp_path}/a\0b", steps=1)


def test_help_that_cannot_be_printed_speaks_of_no_runs():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "runner", "--help"]
        done = processes.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == "error: cannot print the fields (No space left on device)\n"


def parsed(*texts):
    parser = OverridesParser.create()
    return [parser.parse_override(text) for text in texts]


def counts_as_expanded(texts, count=count_runs):
    axes = [len(list(override.sweep_iterator())) for override in parsed(*texts)]
    assert count(parsed(*texts)) == axes[0] * axes[1]


def test_runs_are_counted_as_they_would_be_expanded():
    rng = random.Random(0)
    for _ in range(50):
        start, stop, step = rng.randint(-20, 20), rng.randint(21, 60), rng.randint(1, 7)
        ends = rng.choice(((start, stop, step), (stop, start, -step), (start / 4, stop / 4, step / 4)))
        texts = [
            f"seed=range({','.join(map(str, ends))})",
            rng.choice(("steps=1,2,3", "init=choice(a,b)", "seed2=1,2")),
        ]
        counts_as_expanded(texts)
    rejects(counts_as_expanded, texts, lambda overrides: count_runs(overrides) + 1)


def test_the_largest_sweep_is_one_that_is_planned():
    assert count_runs(parsed(f"seed=range(0,{MOST_RUNS})")) == MOST_RUNS
    for stop in (MOST_RUNS + 1, 10**400, 1e308):
        with pytest.raises(ConfigError, match="one command takes up to"):
            count_runs(parsed(f"seed=range(0,{stop})"))


def test_grids_of_a_file_are_counted_together(cli, tmp_path):
    (tmp_path / "experiment").mkdir()
    grid = f"    - {{seed: 'range(0,{MOST_RUNS - 1})'}}\n"
    text = f"# @package _global_\nexperiment: big\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    grids:\n{grid}{grid}"
    (tmp_path / "experiment" / "big.yaml").write_text(text)
    code, _, err = cli("--config-dir", str(tmp_path), "experiment=big")
    assert code == 2 and "hydra.sweeper.grids: the sweep has more than" in err


FILES = {
    "optimizer: {lr: abc}": "optimizer.lr=abc: must be a finite number above 0 (in experiment/own.yaml)",
    "task: {widht: 3}": "did you mean task.width? (in experiment/own.yaml)",
    "log: {layers: 3}": "log.layers=3: must be true or false",
    "seed: null": "seed=null: must be an integer from 0 to 2^63 - 1 (in experiment/own.yaml)",
    "hydra: {mode: MULTIRUN, sweeper: {params: {task: '1,2'}}}": "task=1: unknown; choose one of classification",
    "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,abc'}}}": "seed=abc: must be an integer from 0",
}


@pytest.mark.parametrize("text", FILES)
def test_what_is_wrong_in_a_file_is_said_like_what_is_wrong_in_a_command(cli, tmp_path, text):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\n{text}\n")
    code, _, err = cli("--config-dir", str(tmp_path), "experiment=own")
    assert code == 2 and FILES[text] in err and err.count("\n") == 1


SIZES = [
    "task.width",
    "task.teacher_width",
    "task.train_points",
    "task.test_points",
    "task.input_dim",
    "task.teacher_rank",
]


@pytest.mark.parametrize("field", SIZES)
def test_a_run_that_does_not_fit_names_the_field_that_is_too_large(field):
    configs = [configure(f"{field}=16777216")]
    with pytest.raises(ConfigError, match=rf"^{field}=16777216: a run takes about [\d,.]+ GiB"):
        check_fits([configs])


@pytest.mark.parametrize("width", [32, 224])  # of which half gives no model, in two ways
def test_what_cannot_be_halved_is_not_the_field_that_is_too_large(width):
    config = configure("task=language_model", f"task.width={width}", "task.batch_size=16777216")
    with pytest.raises(ConfigError, match=r"^task\.batch_size=16777216: a run takes about"):
        check_fits([[config]])


def test_a_run_that_does_not_fit_is_refused_before_anything_is_trained(cli, outputs):
    code, out, err = cli("-m", *TINY[1:], "task.width=16,16777216")
    assert code == 2 and out == "" and err.startswith("error: task.width=16777216: ") and err.count("\n") == 1
    assert not list(outputs.glob("runs/*/*"))


def test_all_of_the_machine_may_be_used_and_no_more(monkeypatch):
    """Also by a model, of which a batch takes more than the weights."""
    model = configure("task=language_model", "task.batch_size=256", "task.sequence_length=16")
    for config, field in (
        (configure("task=sine", "task.width=2048"), "task.width=2048"),
        (model, "task.batch_size=256"),
    ):
        needed = memory.bytes_of_run(config)
        for there in (needed + 1, needed - 1):
            monkeypatch.setattr(memory, "memory", lambda device, there=there: there)
            if there > needed:
                check_fits(stacks([config]))
            else:
                with pytest.raises(ConfigError, match=f"^{field}: "):
                    check_fits(stacks([config]))


def the_base_takes_what_is_said(config, factor=1.0):
    """Of the estimate between a third and all is alive when the base is made: the teacher and the points' first layer go."""
    task = TASKS[config.task.name].build([config])
    tensors = [task.W0, *(t for batch in (task.train, task.test) for t in vars(batch).values() if t is not None)]
    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
    said = factor * task.frozen(config)
    assert said / 3 < held < 3 * said, (said, held)


@pytest.mark.parametrize("name", [name for name in TASKS if issubclass(TASKS[name], ToyTask)])
@pytest.mark.parametrize(
    "size", [["task.width=300", "task.train_points=10"], ["task.width=16", "task.train_points=5000"]]
)
def test_the_estimate_of_a_base_is_that_of_its_tensors(name, size):
    config = configure(f"task={name}", *size, *(["task.teacher_width=20"] if name == "teacher_student" else []))
    the_base_takes_what_is_said(config)
    for factor in (10, 0.1):
        rejects(the_base_takes_what_is_said, config, factor)


def test_random_configurations_are_sane_or_refused_in_one_line():
    """A sample; `python -m tests.fuzz 2000` for more."""
    toys = [name for name in sorted(TASKS) if issubclass(TASKS[name], ToyTask)]
    ends, problems = fuzz.fuzz(240, seed=0, tasks=toys, command_line=20)
    assert not problems, problems
    assert ends["refused"] > 50 and ends["finished"] > 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["steps=abc"], "Value 'abc' of type 'str' could not be converted to Integer"),
        (["steps=abc"], "steps=abc: must be\nan integer"),
        (["steps=abc"], "ValidationError: steps=abc"),
        (["steps=abc"], ""),
        (["task=sine", "steps=abc"], "task.width=abc: must be an integer from 1 to 16777216"),
        (["steps=abc"], "steps.x is not known, nor is my_steps"),
    ],
)
def test_messages_that_break_the_promise_are_found(overrides, message):
    rejects(fuzz.check_message, overrides, message)
    fuzz.check_message(overrides, "steps=abc: must be an integer from 1 to 16777216")


def test_configurations_that_break_the_promise_are_found():
    config = configure()
    config.log.layers = 1
    rejects(fuzz.check, [], [], config)
    config.log.layers, config.optimizer.lr = False, float("inf")
    rejects(fuzz.check, [], [], config)
    config.optimizer.lr, config.steps = 0.1, 0
    rejects(fuzz.check, [], [], config)
    config.steps = 1
    assert fuzz.check([], [], config) == "finished"


@pytest.mark.parametrize("axis", ["glob(*)", "range(1,3)", "interval(0,1)"])
def test_experiments_are_swept_as_a_list(axis):
    with pytest.raises(ConfigError, match=r"^experiment=\w+\(.*\): .*; name them as a list, experiment=a,b$"):
        read([f"experiment={axis}"])
    assert read(["experiment=a,b"]).values("experiment") == read(["experiment=choice(a,b)"]).values("experiment")


def test_arguments_are_read_as_hydra_wants_them():
    command = read(["seed=1", "-m", "steps=3", "--cfg", "job", "seed=2"])
    assert command.arguments == ["-m", "--cfg", "job", "steps=3", "seed=2"]
    assert command.values("seed") == [2] and set(command.flags) == {"multirun", "cfg"}

"""Random configurations against a promise: each is accepted and sane, or refused in one line that names a field that was set.

    python -m tests.fuzz 2000 [seed]

runs so many and prints what breaks the promise; the suite runs a small sample of them.
"""

import contextlib
import copy
import dataclasses
import io
import logging
import math
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"  # a random name of a model is not worth a request

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from hydra_plugins.stack_sweeper import Template
from runner.config import Config, ConfigError
from runner.config.command import read
from runner.config.compose import CONF, register
from runner.config.errors import explain, is_about_input
from runner.config.identity import run_id, with_values
from runner.config.options import described
from runner.config.registry import GROUPS, TASKS
from runner.sweeps import cli
from runner.sweeps.memory import bytes_of_run, check_fits
from runner.sweeps.plan import cost, stack_key
from runner.tasks.toy import ToyTask
from runner.training.train import train

ODD = [
    *(
        "abc",
        "''",
        "' '",
        "null",
        "true",
        "false",
        "yes",
        "TRUE",
        "None",
        "-1",
        "0",
        "1",
        "-0.0",
        "3.5",
        "1e3",
        "1e-320",
    ),
    *(
        "1e300",
        "-1e300",
        "nan",
        "inf",
        "-inf",
        "9223372036854775807",
        "9223372036854775808",
        "1" + "0" * 400,
        "1" * 5000,
    ),
    *("[]", "[1,2]", "[[1]]", "[null]", "{}", "{a:1}", "${seed}", "${nope}", "${.name}", "${oc.env:NOPE}", "${", "???"),
    *(
        "'3'",
        "'1e-3'",
        "'a b'",
        "'a\nb'",
        "'\x1b[31m'",
        "'\u200b'",
        "\udcff",
        "größe",
        "'日本'",
        "a/b",
        "../x",
        "/proc/x",
    ),
    *(
        "0x10",
        "1_000",
        "x" * 3000,
        "a=b",
        "cuda:99999",
        "16777216",
        "16777217",
        "0.999",
        "int(3.7)",
        "str(3)",
        "'\\'",
        "#",
    ),
]
USUAL = ["1", "2", "4", "8", "16", "0.1", "0.5", "1e-3", "64", "1.0"]
# What only a whole command can be given, besides values of fields: choices that are none, and fields of Hydra's own.
WHOLE = ["{group}={value}", "~{group}", "hydra.{hydra}={value}", "experiment={value}"]
HYDRA = "run.dir sweep.dir sweeper.params.seed mode verbose job.chdir job.name output_subdir".split()
TOGETHER = 8  # configurations of the same choices, which take longest to compose
CHEAP = 2**20  # entries of a layer's output over all steps, up to which a configuration is trained


def fields(kind: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """(dotted name, declaration) of every field of a dataclass and of those within it, but for its choices."""
    for field in dataclasses.fields(kind):
        if field.name in GROUPS and not prefix:
            continue
        if dataclasses.is_dataclass(field.type):
            yield from fields(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def draw_choices(rng: random.Random, tasks: Sequence[str]) -> dict[str, str]:
    """Group -> what is chosen there."""
    chosen = {group: rng.choice(sorted(parts)) for group, parts in GROUPS.items() if rng.random() < 0.5}
    return chosen | {"task": rng.choice(tasks)}


def draw_values(rng: random.Random, chosen: dict[str, str]) -> list[str]:
    """Overrides that give one to three fields values of any kind."""
    known = dict(fields(Config))
    for group, name in chosen.items():
        known |= dict(fields(GROUPS[group].options[name], f"{group}."))
    return [_override(rng, name, known[name]) for name in rng.sample(sorted(known), rng.choice((1, 1, 1, 2, 3)))]


def draw_whole(rng: random.Random) -> str:
    """An override that is about the command, rather than a field of a run."""
    return rng.choice(WHOLE).format(group=rng.choice(sorted(GROUPS)), value=rng.choice(ODD), hydra=rng.choice(HYDRA))


def _override(rng: random.Random, name: str, field: dataclasses.Field) -> str:
    names = [each for each in getattr(field.metadata.get("allowed"), "names", ())]
    value = rng.choice([*ODD, *3 * USUAL, *4 * names, *(each[:-1] for each in names)])
    misspelt = name.replace(rng.choice(name), "", 1)
    form = rng.choices(
        ("{0}={1}", "+{0}={1}", "++{0}={1}", "~{0}", "{0}.x={1}", "{2}={1}", "{3}={1}"), (30, 1, 1, 1, 1, 1, 1)
    )
    return form[0].format(name, value, misspelt, name.rpartition(".")[2])


def by_command_line(overrides: Sequence[str]) -> Config | str:
    """The configuration that `python -m runner` would train, or its message."""
    trained: list[Config] = []
    err, root = io.StringIO(), logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    GlobalHydra.instance().clear()
    with (
        mock.patch.object(cli, "train", lambda request: trained.extend(request.configs)),
        mock.patch.object(sys, "argv", ["runner", *overrides]),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            assert stop.code == 2, stop.code
            return err.getvalue().removeprefix("error: ").removesuffix("\n")
        finally:  # hydra.verbose
            root.setLevel(level)
            root.handlers[:] = handlers
    assert err.getvalue() == "", err.getvalue()
    return trained[0]


def by_sweep(choices: Sequence[str], values: Sequence[str]) -> Config | str:
    """The same as a run of a sweep, whose choices are composed once."""
    try:
        command = read([*choices, *values])
        own = {each.input_line: each for each in command.overrides if each.input_line not in choices}
        return Template(copy.deepcopy(_composed(tuple(choices)))).configure(own)
    except Exception as error:
        if not is_about_input(error):
            raise
        return explain(error)


@cache
def _composed(choices: tuple[str, ...]) -> object:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(choices), return_hydra_config=True)


def check(choices: Sequence[str], values: Sequence[str], result: Config | str) -> str:
    """What became of a configuration: refused, trained, … Raises AssertionError where the promise is broken."""
    overrides = [*choices, *values]
    if isinstance(result, str):
        check_message(overrides, result)
        return "refused"
    for field, value, declared in described(result):
        check_value(field, value, declared)
    assert stack_key(result) and len(run_id(result)) == 16
    assert math.isfinite(cost(result)) and cost(result) > 0 and math.isfinite(bytes_of_run(result))
    try:
        check_fits([[result]])
    except ConfigError as error:
        check_message(overrides, str(error))
        return "too large"
    toy = issubclass(TASKS[result.task.name], ToyTask)
    short = with_values(result, {"steps": min(result.steps, 2)})
    if not toy or cost(short) > CHEAP or bytes_of_run(short) > 64 * CHEAP:
        return "accepted"
    try:
        [outcome] = train([short])
    except ConfigError as error:
        check_message(overrides, str(error))
        return "refused at its start"
    losses = outcome.summary
    assert outcome.status == "diverged" or math.isfinite(losses["final_loss"]), losses
    return outcome.status


def check_message(overrides: Sequence[str], message: str) -> None:
    """One printable line in our words that names a field, or a choice, that was set."""
    assert message.isprintable() and message, "not one printable line"
    assert "Traceback" not in message and "full_key" not in message and "Error" not in message, "not in our words"
    parts = [override.lstrip("+~").partition("=") for override in overrides]
    ends = {key: r"(?!\w)" if "{" in value else r"(?![\w.])" for key, _, value in parts}  # {…} is of fields below
    named = (re.search(rf"(?<![\w.]){re.escape(key)}{end}", message) for key, end in ends.items())
    assert any(named) or "has no value; set it" in message, "names no field that was set"


def check_value(field: str, value: object, declared: dataclasses.Field) -> None:
    """That a value is one of its field's type, that the field takes, finite and printable."""
    texts, allowed = value if isinstance(value, list) else [value], declared.metadata.get("allowed")
    if value is None:
        assert "None" in str(declared.type), f"{field} is null"
        return
    if allowed and allowed.text == "true or false":
        assert isinstance(value, bool), f"{field}={value}"
    elif isinstance(value, int | float):
        assert not isinstance(value, bool) and math.isfinite(value), f"{field}={value}"
    else:
        assert all(isinstance(text, str) and text.isprintable() for text in texts), f"{field}={value!r}"
    assert allowed is None or allowed.accepts(value), f"{field}={value!r}"


def fuzz(count: int, seed: int, tasks: Sequence[str], command_line: int) -> tuple[Counter, dict[str, list[str]]]:
    """(what became of so many configurations, problem -> the overrides that have it); every `command_line`-th by `main`."""
    register()
    rng, ends, problems = random.Random(seed), Counter(), {}
    with tempfile.TemporaryDirectory() as root, contextlib.chdir(root):  # Hydra makes folders, ../x too
        os.makedirs("a/b")
        os.chdir("a/b")
        for number in range(count):
            if number % TOGETHER == 0:
                chosen = draw_choices(rng, tasks)
                choices = [f"{group}={name}" for group, name in chosen.items()]
            values = draw_values(rng, chosen)
            by_main = number % command_line == 0
            if by_main and rng.random() < 0.5:
                values = [draw_whole(rng), *values[1:]]
            try:
                result = by_command_line([*choices, *values]) if by_main else by_sweep(choices, values)
                ends[check(choices, values, result)] += 1
            except Exception as error:
                shown = result if isinstance(error, AssertionError) and isinstance(result, str) else ""
                problems.setdefault(f"{type(error).__name__}: {error} {shown}"[:300], [*choices, *values])
    return ends, problems


if __name__ == "__main__":
    ends, problems = fuzz(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]), sorted(TASKS), 10)
    print(dict(ends))
    for problem, overrides in problems.items():
        print(f"{problem}\n    {' '.join(text[:80] for text in overrides)!r}")
    sys.exit(bool(problems))

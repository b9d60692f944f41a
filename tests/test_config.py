"""The schema, its checks, and run identity; every bad input gives one clear message, exit code 2 and no traceback."""

import dataclasses

import compositions
import pytest
from conftest import configure, rejects
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from runner.config.compose import CONF
from runner.config.identity import run_id

BAD = {
    "init=foo": "init=foo: unknown; choose one of corda, etf, eva, gaussian_A, gaussian_AB, gaussian_B, kaiming_A",
    "init.name=foo": "init.name=foo: unknown; choose one of",
    "task=foo": "classification, feature_regression, language_model, linear, minilm, sine, smollm2, teacher_student",
    "task=3": "task=3: unknown; choose one of classification, ",
    "optimizer=adam": "optimizer=adam: unknown; choose one of adamw, lora_muon, lora_rite, sgd, signsgd",
    "experiment=lr_vs_widht": "experiment=lr_vs_widht: did you mean lr_vs_width?",
    "widht=3": "unknown key 'widht'",
    "task.widht=3": "unknown key 'task.widht'; the fields there are name, width",
    "+widht=3": "unknown key 'widht'",
    "++task.widht=3": "unknown key 'task.widht'",
    "+task.nested.key=3": "unknown key 'task.nested'",
    "optimizer.momentum=0.9": "unknown key 'optimizer.momentum'",
    "task.width=12.5": "task.width=12.5: must be an integer from 1 to 16777216",
    "task.width=abc": "task.width=abc: must be an integer from 1 to 16777216",
    "task.width=0": "task.width=0: must be an integer from 1 to 16777216",
    "task.width=null": "task.width=null: must be an integer from 1 to",
    "~task.width": "task.width: has no value",
    "adapter.rank=129": "adapter.rank=129: exceeds min(n_out, n_in)=128 of the adapted layer hidden, 128×128",
    "adapter.dropout=1": "adapter.dropout=1.0: must be in [0, 1)",
    "adapter.dropout=0.5": "adapter.dropout=0.5: is for transformers models",
    "optimizer.clip=0": "optimizer.clip=0.0: must be",
    "checkpoint.minutes=-1": "checkpoint.minutes=-1.0: must be",
    "optimizer.lr=0": "optimizer.lr=0.0: must be a finite number above 0",
    "optimizer.lr=-1": "optimizer.lr=-1.0: must be",
    "optimizer.lr=nan": "optimizer.lr=nan: must be",
    "optimizer.lr_ratio=0": "optimizer.lr_ratio=0.0: must be",
    "optimizer.beta2=1": "optimizer.beta2=1.0: must be in [0, 1)",
    "optimizer.schedule=step": "optimizer.schedule=step: unknown; choose one of constant, linear, cosine",
    "optimizer.lr=1e-3,1e-2": "optimizer.lr=1e-3,1e-2: several values make a sweep, which takes -m (--multirun)",
    "seed=-1": "seed=-1: must be",
    "steps=0": "steps=0: must be",
    "log.every=0": "log.every=0: must be",
    "sharpness.every=0": "sharpness.every=0: must be",
    "device=cuda:7": "CUDA devices; use device=cpu or device=auto",
    "device=abacus": "device=abacus: unknown",
    "tf32=true device=cpu": "tf32=true: is of NVIDIA's GPUs; device=cpu is none here, and takes false",
    "tf32=maybe": "tf32=",
    "engine=steam": "engine=steam: unknown; choose one of auto, autograd",
    "steps=9999999999999": "steps=9999999999999: must be an integer from 1 to",
    "~steps": "steps: has no value",
    "optimizer.name=sgd": "use optimizer=sgd",
    "task.name=linear": "use task=linear",
    "hydra.sweeper.params.foo=1": "hydra.sweeper.params.foo=1: is for experiment files; on the command line write -m",
    "init=etf init.vectors=columns": "the nearest rank that has one is 127",
    "init=etf adapter.rank=1": "adapter.rank=1: init=etf takes ranks of at least 2",
    "init=orthogonal adapter.rank=3": "adapter.rank=3: init=orthogonal takes an even rank; 4 is one",
    "init=lora_ga adapter.rank=65": "adapter.rank=65: init=lora_ga takes 2r singular vectors of the gradient, so a rank of up",
    "init=eva task=linear": "init=eva: needs calibration data for the frozen model, which task=linear does not have",
    "init=vera_b0": "init=vera_b0: adapter=lora cannot take it; choose one of",
    "adapter=vera init=gaussian_A": "init=gaussian_A: adapter=vera cannot take it; choose one of vera_b0, vera_d0",
    "adapter=vera adapter.alpha=2": "unknown key 'adapter.alpha'",
    "adapter=full adapter.rank=4": "unknown key 'adapter.rank'",
    "adapter=full init=gaussian_A": "init=gaussian_A: adapter=full cannot take it; choose one of pretrained",
    "init=pretrained": "init=pretrained: adapter=lora cannot take it; choose one of corda",
    "adapter=full init.scale=2": "init.scale=2.0: must be 1, as the weight starts where it is",
    "adapter=full optimizer.lr_ratio=4": "optimizer.lr_ratio=4.0: adapter=full trains everything at optimizer.lr, and takes 1",
    "adapter=full engine=fused": "engine=fused: it does not know adapter=full",
    "adapter=vera adapter.projection_key=9223372036854775808": "adapter.projection_key=9223372036854775808: must be",
    "init=eva init.rho=0.5": "init.rho=0.5: must be a number from 1",
    "init=corda init.mode=all": "init.mode=all: unknown; choose one of ipm, kpm",
    "init=pissa init.name=eva": "init.name=eva: the fields of another init are in place; use init=eva",
    "engine=fused adapter=dora": "engine=fused: it does not know adapter=dora",
    "task=sine adapter=dora": "adapter=dora: the frozen weight of task=sine is zero",
    "optimizer.lr_ratio=-1": "optimizer.lr_ratio=-1.0: must be a finite number above 0",
    "task.out_exponent=-1000": "task.out_exponent=-1000.0: must be a number from -4 to 4",
    "task.out_exponent=1e300": "task.out_exponent=1e+300: must be a number from -4 to 4",
    "workers=1.5": "workers=1.5: must be auto or an integer from 1 to 1024",
    "device=cpu:5": "device=cpu:5: unknown; choose one of auto, cpu, cuda, cuda:<index>",
    "device=null": "device=null: unknown; choose one of auto",
    "log.layers=-1": "log.layers=-1: must be true or false",
    "log.directions=-1": "log.directions=-1: must be true or false",
    "log.layers=yes": "log.layers=yes: must be true or false",
    "log.layers=null": "log.layers=null: must be true or false",
    "log.weights=1": "log.weights=1: must be true or false, or null",
    "task.residual=2": "task.residual=2: must be true or false",
    "init=gaussian_AB init.subtract=-1": "init.subtract=-1: must be true or false",
    "adapter=dora adapter.norm_gradient=3": "adapter.norm_gradient=3: must be true or false",
    f"bases={'x' * 300}": ": is longer than a name may be, 255 bytes",
    f"task=language_model task.model={'x' * 300}": ": is longer than a name may be, 255 bytes",
    "log=3": "log=3: is a group of fields; set log.every, log.layers",
    f"adapter.rank={10**400}": "…: is larger than any field takes",
    f"-m seed=1 adapter.rank=2,{-(10**400)}": "…: is larger than any field takes",
    "steps=1e3": "steps=1000.0: must be an integer from 1 to 16777216",
    "optimizer.lr=[1,2]": "optimizer.lr=[1,2]: must be a finite number above 0",
    "optimizer.clip=x": "optimizer.clip=x: must be a finite number above 0, or null",
    "adapter.rank=???": "adapter.rank: has no value; set it on the command line, adapter.rank=",
    "seed=${outputs}": "seed=${outputs}: must be an integer from 0 to 2^63 - 1",
    "bases=${nope}": "bases=${nope}: Interpolation key 'nope' not found",
    "bases=${oc.env:NOPE}": "bases=${oc.env:NOPE}: Environment variable 'NOPE' not found",
    "tracker=wandb tracker.project=a/b": "tracker.project=a/b: must be a name of up to 128 characters",
    "lr=0.1": "did you mean optimizer.lr?",
    "prob.size=3": "unknown key 'prob.size'",
    "seed.x=3": "unknown key 'seed.x'",
    "+seed=3": "+seed=3: the field is there; leave out the +",
    "~task": "task: has no value, because ~task removes it",
    "task=null": "task=null: unknown; choose one of classification, ",
    "optimizer=1": "optimizer=1: unknown; choose one of adamw, lora_muon, lora_rite, sgd, signsgd",
    "optimizer=${nope}": "optimizer=${nope}: unknown; choose one of adamw",
    "experiment=3": "experiment=3: must be a name of up to 100 letters",
    "experiment=null": "experiment=null: must be a name of up to 100 letters",
    "experiment=true": "experiment=true: must be a name of up to 100 letters",
    "experiment=${nope}": "experiment=${nope}: must be a name of up to 100 letters",
    "experiment=[1,2]": "experiment=[1,2]: must be a name of up to 100 letters",
    "experiment=a/b": "experiment=a/b: must be a name of up to 100 letters",
    "hydra.run.dir=/proc/x": "/proc/x: cannot be used (No such file or directory); see hydra.run.dir",
    "hydra.job.chdir=x": "hydra.job.chdir=x: Value 'x' is not a valid bool",
    "init@x=gaussian_A hydra.job.name=a": "error: Could not override 'init@x'",
    "hydra.run.dir=${nope}": "hydra.run.dir=${nope}: Interpolation key 'nope' not found",
    "hydra.searchpath=3 hydra.job.name=a": "error: hydra.searchpath must be a list of strings",
    "hydra.mode={a:1}": "hydra.mode={a:1}: Value {'a': 1} (dict) is not a valid input",
    "hydra.verbose=1e300": "hydra.verbose=1e300: Hydra does not take it",
    "hydra.sweeper.params.seed=1": "hydra.sweeper.params.seed=1: ",
    "--foo": "unrecognized arguments: --foo",
    "--config-dir /nope": "--config-dir /nope: there is no such folder",
    "--config-dir /nope experiment=first,first_step": "--config-dir /nope: there is no such folder",
    "-m seed=range(0,1000000000)": "seed=range(0,1000000000): the sweep has 1000000000 runs, and one command takes up to 100000",
    "-m seed=shuffle(range(0,1000)) task.width=range(1,9999)": "task.width=range(1,9999): the sweep has 9998000 runs",
    "seed=range(0,1000000000) --help": "seed=range(0,1000000000): the sweep has 1000000000 runs",
    "-m optimizer.lr=range(0,1,nan)": "optimizer.lr=range(0,1,nan): a range needs finite ends",
    "dtype=int8": "dtype=int8: unknown; choose one of float32, float64",
}


@pytest.mark.parametrize("override", BAD)
def test_bad_input_is_one_message(override, cli, outputs):
    code, out, err = cli(*override.split())
    assert code == 2 and out == ""
    assert err.startswith("error: ") and BAD[override] in err and err.count("\n") == 1
    assert not list(outputs.glob("runs/*"))


def test_rank_is_checked_against_the_adapted_layer(cli):
    assert "exceeds min(n_out, n_in)=1" in cli("task=linear", "adapter.rank=2")[2]
    assert "task.target_rank=200: exceeds" in cli("task=feature_regression", "task.target_rank=200")[2]


def test_a_sweep_with_one_bad_point_trains_nothing(cli, outputs):
    code, _, err = cli("--multirun", "task.width=64,0", "steps=1")
    assert code == 2 and "task.width=0" in err
    assert not list(outputs.glob("runs/*/*"))


def test_an_unwritable_outputs_folder_is_refused(cli, outputs):
    outputs.parent.mkdir(exist_ok=True)
    outputs.write_text("a file where the folder should be")
    code, _, err = cli("steps=1")
    assert code == 2 and f"outputs={outputs}: cannot write there" in err


def composed(overrides, mode):
    """All that Hydra composes, its own settings and what it was asked for, too."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        return OmegaConf.to_container(hydra.compose_config("config", overrides, mode, with_log_configuration=False))


def same_as_hydras(overrides, others, mode, but=None):
    """But for what is under one key."""
    kept = composed(overrides, mode)
    with compositions.kept_no_longer():
        its = composed(others, mode)
    assert {**kept, but: None} == {**its, but: None}


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "optimizer.lr=3 task.width=8 optimizer.lr=4 seed=2",
        "adapter.rank=8 seed=${adapter.rank} adapter=rslora",
        "task.width=32 task=language_model task.targets=[q_proj,v_proj] task.accumulation=2 log.weights=null",
        "optimizer=sgd optimizer.momentum=0.5 optimizer.clip=1 tracker=wandb tracker.project=a",
        "init.scale=2 init=kaiming_A experiment=first_step steps=7 outputs='a/b' device=cpu",
        "adapter=full task=feature_regression init=pretrained",
        "hydra.mode=MULTIRUN seed=0,1 optimizer.lr=1e-3,1e-2 init=gaussian_A,gaussian_B +more=1 steps=7",
    ],
)
def test_configurations_of_the_tests_are_hydras(overrides):
    """Also those that are set in a copy of what was composed before, which they do not change."""
    words = overrides.split()
    mode = RunMode.MULTIRUN if "hydra.mode=MULTIRUN" in words else RunMode.RUN
    for _ in range(2):
        same_as_hydras(words, words, mode)
        rejects(same_as_hydras, [*words, "seed=9"], words, mode)
        rejects(same_as_hydras, [*words, "steps=9"], words, mode, "hydra")
    same_as_hydras([], [], mode)


def test_an_experiment_overrides_the_defaults():
    """`_self_` stands before `experiment` in the defaults list; the other way round this would be `scratch`."""
    config = configure("experiment=first_step")
    assert (config.experiment, config.steps) == ("first_step", 1)
    assert configure("experiment=first_step", "steps=5").steps == 5  # and the command line has the last word


def test_alpha_follows_the_rank_unless_it_is_set():
    assert configure("adapter.rank=8").adapter.alpha == 8.0
    assert configure("adapter.rank=8", "adapter.alpha=16").adapter.alpha == 16.0


IDENTITY = (
    "task.width=64 task.residual=false adapter.rank=2 init=kaiming_A init.scale=2 optimizer.lr=0.1 "
    "optimizer.schedule=linear steps=7 seed=1 dtype=float64 log.every=2 probe.size=3 stability.max_ratio=7"
).split()


@pytest.mark.parametrize("override", IDENTITY)
def test_what_changes_numbers_changes_the_run_id(override):
    assert run_id(configure(override)) != run_id(configure())


@pytest.mark.parametrize("override", ["outputs=elsewhere", "tracker=wandb", "stack.max_bytes=1"])
def test_where_a_run_is_kept_does_not_change_its_id(override):
    assert run_id(configure(override)) == run_id(configure())


def test_run_id_is_of_the_content_not_of_the_spelling():
    assert run_id(configure("optimizer.lr=1e-2")) == run_id(configure("optimizer.lr=0.01")) == run_id(configure())
    config = configure()
    assert run_id(dataclasses.replace(config, experiment="other")) == run_id(config)
    assert run_id(config) == "02c376e590fcf2dc", (
        "the identity of the default run changed: every stored run would be trained again. If fields were added, or the "
        "same configuration now gives other numbers, that is right: update this value and raise IDENTITY_VERSION"
    )

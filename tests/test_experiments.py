"""Every experiment file: its sweep as written composes, a small corner of it trains, and it has a figure of its name."""

import json

import pytest
from conftest import configure
from models import adapter_of, checkpoint, own, rows

from analysis import figures
from runner.config.compose import CONF
from runner.config.registry import GROUPS

STUDIES = {  # of the papers, on models from the hub -> a model of the same kind
    "roberta_glue": "roberta",
    "tinyllama_wikitext": "llama",
    "llama_gsm8k": "llama",
    "llama_flan": "llama",
}
NAMES = sorted({path.stem for path in (CONF / "experiment").glob("*.yaml")} - set(STUDIES))
TOYS = ["task.width=32", "steps=2", "seed=0", "optimizer.lr=0.001,0.01", "task.train_points=20"]
MODELS = (
    "task.width=32 steps=2 seed=0 optimizer.lr=0.001,0.01 task.pretrain_steps=2 task.eval_sequences=2 "
    "task.layers=1 task.sequence_length=16"
).split()


# What keeps a corner of an experiment small, and its runs, where these are not lr × init. A task that is named replaces those of
# all grids, whose other fields still tell their runs apart.
CORNERS = {
    "first_step": [(TOYS, 6)],
    "init_zoo": [([*TOYS, "task=teacher_student"], 68), ([*MODELS, "task=language_model", "init=pissa,lora_ga"], 8)],
    "variants": [([*TOYS, "task=feature_regression"], 36), ([*MODELS, "task=language_model", "adapter.rank=4"], 36)],
    "dora_directions": [([*TOYS, "task=teacher_student", "init=gaussian_A", "adapter=lora,dora"], 24)],
    "lora_plus": [([*TOYS, "optimizer.lr_ratio=1,4"], 12)],
    "full_finetuning": [([*MODELS, "init=kaiming_A"], 8)],
    "advise": [(TOYS, 6)],
    "lm_lr_sensitivity": [(MODELS, 6)],
    "lm_dynamics": [(MODELS, 6)],
    "lm_layers": [(MODELS, 6)],
    "coordinate_check": [(MODELS, 4)],
    "lm_mup": [(MODELS, 8)],
    "remedies": [([*MODELS, "task=language_model", "optimizer.lr=0.001"], 32)],
    "rotation": [([*MODELS, "task=language_model"], 8)],
    "magnitude": [([*MODELS, "init=pissa"], 8)],
    "sharpness_vs_lr": [([*MODELS, "task=language_model", "optimizer.lr=0.001", "init=gaussian_A"], 3)],
    "horizon_transfer": [([*MODELS, "steps=2,3"], 8)],
    "rank_transfer": [([*TOYS, "adapter.rank=2,4", "task.target_rank=4"], 24)],
}
REAL = ("advise_smollm2", "advise_minilm")  # models, which test_real trains
CASES = [(name, *case) for name in NAMES if name not in REAL for case in CORNERS.get(name, [(TOYS, 4)])]


@pytest.mark.parametrize(("name", "corner", "runs"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_it_runs_two_steps(name, corner, runs, cli, outputs):
    code, out, err = cli(f"experiment={name}", *corner, f"bases={outputs}/bases")
    assert code == 0 and " finished" in out, err
    assert all("pretrain" in line for line in err.splitlines())
    metas = list(outputs.glob("runs/*/*/meta.json"))
    assert len(metas) == runs
    assert all(json.loads(meta.read_text())["status"] == "finished" for meta in metas)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_the_papers_runs_two_steps_on_a_small_checkpoint(name, cli, outputs, tmp_path):
    """Everything but the sizes is as its file says; so its fields fit together."""
    kind = STUDIES[name]
    data = rows(tmp_path / "data.jsonl", 40, columns=("sentence", "text", "question", "answer", "inputs", "targets"))
    model = checkpoint(tmp_path / kind, kind, 2 if kind == "roberta" else None)
    small = "task.sequence_length=16 steps=2 seed=0 optimizer.lr=1e-3,1e-2 adapter.rank=2".split()
    files = ["task.subset=null", "task.train_split=train", "task.eval_split=validation"]
    code, out, err = cli(f"experiment={name}", f"task.model={model}", f"task.dataset={data}", *files, *small)
    assert code == 0 and "4 finished" in out, err


@pytest.mark.parametrize("name", NAMES)
def test_its_defaults_compose(name):
    assert configure(f"experiment={name}").experiment in NAMES


SOURCES = {name: [source.removesuffix(".layers") for source in figures.sources(name)] for name in figures.NAMES}
OF_ONE = [name for name, sources in SOURCES.items() if len(set(sources)) == 1 or sources[0] == name]


def test_every_experiment_but_answers_has_a_figure_of_its_name():
    """`first` is a small `lr_vs_width`, which `headline` shows; `analysis advise` draws what `advise` trains, and `real_models`
    what those on real models do. A figure of several experiments is its first one's, if of that name."""
    assert [name for name in NAMES if name not in ("first", "advise", *REAL)] == OF_ONE


@pytest.mark.parametrize("name", OF_ONE)
def test_the_runs_of_an_experiment_are_where_its_figure_looks(name):
    assert configure(f"experiment={name}").experiment in SOURCES[name]


def test_every_yaml_choice_composes():
    """Under the name of its part; two tasks are others on real models, which test_packages composes."""
    for group in ("task", "init", "optimizer", "tracker", "adapter"):
        files = {path.stem for path in (CONF / group).glob("*.yaml")} - {"minilm", "smollm2"}
        assert files == set(GROUPS[group])
        for name in files:
            model = ["task.model=llama_tiny", "task.dataset=any.jsonl"] if name == "classification" else []
            adapter = name if group == "adapter" else adapter_of(name) if group == "init" else "lora"
            chosen = own(adapter, rank=1 if name == "linear" else 2)
            assert getattr(configure(*chosen, f"{group}={name}", *model), group).name == name

"""What is trained here loads in PEFT with the same logits, and what PEFT has written is where a run can start."""

import json

import peft
import pytest
import torch
import transformers
from conftest import configure, rejects
from models import CPU, DOUBLE, overrides, same
from safetensors.torch import load_file, save_file

from runner.adapters import ADAPTERS
from runner.export import main
from runner.inits import INITS
from runner.models import hooks
from runner.schema import ConfigError
from runner.start import build_adapters
from runner.store import Store
from runner.train import build_task, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # PEFT asks transformers for it
MODELS = {"llama": "language_model", "roberta": "classification"}
STARTS = [(a, n) for a, kind in ADAPTERS.items() for n, i in INITS.items() if set(i.gives) <= kind.sides.keys()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> dict[str, list[str]]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in MODELS}
    return {kind: overrides(folders[kind], task, kind, adapter="vera") for kind, task in MODELS.items()}


def configured(shared, kind: str, adapter: str, *more: str):
    """Of rank 4, s = 3/2, and few steps at a large rate, so that everything has moved."""
    small = [o for o in shared[kind] if not o.startswith("adapter")]
    alpha = [] if adapter == "vera" else ["adapter.alpha=6"]
    return configure(*small, f"adapter={adapter}", "adapter.rank=4", *alpha, "steps=3", "optimizer.lr=0.05", *more)


def stored(config, tmp_path):
    """The folder of the trained run, and the logits of its model on a few held-out sequences."""
    [outcome] = train([config])
    assert outcome.status == "finished"
    config.outputs = str(tmp_path / "outputs")
    with Store(config.outputs) as store:
        store.claim(config)
        run = store.write(config, outcome, {})
    task = build_task([config]).to(CPU, DOUBLE)
    adapters = build_adapters([config], task, CPU, DOUBLE)
    weights = load_file(run / "adapter.safetensors")
    with torch.no_grad():
        for layer, adapter in adapters.items():
            for name, p in adapter.parameters.items():
                p[0] = weights[f"{layer}.{name}"]
    with hooks.attached(task.modules, adapters):
        return run, task, logits(task.model, task)


def logits(model, task):
    tokens, mask = task.held_out.tokens[:3].long(), task.held_out.mask
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=None if mask is None else mask[:3].long()).logits


def by_peft(config, base, folder):
    """PEFT's model from the folder, on a base of its own."""
    is_lm = config.task.name == "language_model"
    kind = transformers.AutoModelForCausalLM if is_lm else transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(base, dtype=DOUBLE, **({} if is_lm else {"num_labels": 3}))
    return peft.PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).eval()


def logits_at_the_start(shared, kind, adapter, base, folder):
    """Of a run that starts from the folder on that base, with the rank and alpha that the folder names."""
    its = json.loads((folder / "adapter_config.json").read_text())
    alpha = [] if adapter == "vera" else [f"adapter.alpha={its['lora_alpha']}"]
    fields = [f"adapter.rank={its['r']}", *alpha, f"adapter.start_from={folder}", f"task.model={base}"]
    config = configured(shared, kind, adapter, *fields)
    task = build_task([config]).to(CPU, DOUBLE)
    with hooks.attached(task.modules, build_adapters([config], task, CPU, DOUBLE)):
        return logits(task.model, task)


@pytest.mark.parametrize(("adapter", "init"), STARTS, ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_an_exported_run_has_its_logits_in_peft_and_where_another_starts(kind, adapter, init, shared, tmp_path, capsys):
    config = configured(shared, kind, adapter, f"init={init}", *(["init.examples=8"] if INITS[init].needs else []))
    run, task, expected = stored(config, tmp_path)
    assert main([str(run), str(tmp_path / "out")]) == 0, capsys.readouterr().err
    base = tmp_path / "out" / "base" if INITS[init].replaces else config.task.model
    model = by_peft(config, base, tmp_path / "out")
    same(logits(model, task), expected)
    same(logits_at_the_start(shared, kind, adapter, base, tmp_path / "out"), expected)
    if init != "zero" or kind == "roberta":  # whose head trains
        with model.disable_adapter():
            rejects(same, logits(model, task), expected)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_run_starts_where_an_exported_one_ended(kind, adapter, shared, tmp_path):
    config = configured(shared, kind, adapter)
    run, *_ = stored(config, tmp_path)
    main([str(run), str(tmp_path / "out")])
    ended = json.loads((run / "summary.json").read_text())["final_eval_loss"]

    def starts_there(*more):
        [outcome] = train([configured(shared, kind, adapter, *more)])
        assert outcome.steps["eval/loss"].iloc[0] == pytest.approx(ended, rel=1e-12)

    starts_there(f"adapter.start_from={tmp_path / 'out'}")
    rejects(starts_there)


def test_a_run_starts_where_an_adapter_of_peft_is(shared, tmp_path):
    """PEFT's own folder, with its own names for the same things."""
    config = configured(shared, "llama", "dora")
    model = transformers.AutoModelForCausalLM.from_pretrained(config.task.model, dtype=DOUBLE)
    targets = ["q_proj", "v_proj"]
    theirs = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=targets), autocast_adapter_dtype=False
    )
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * p.requires_grad
    theirs.save_pretrained(tmp_path / "theirs")
    config = configured(
        shared, "llama", "dora", f"adapter.start_from={tmp_path / 'theirs'}", "task.targets=[q_proj,v_proj]"
    )
    task = build_task([config]).to(CPU, DOUBLE)
    adapters = build_adapters([config], task, CPU, DOUBLE)
    with hooks.attached(task.modules, adapters):
        same(logits(task.model, task), logits(theirs.eval(), task))


@pytest.fixture
def folder(shared, tmp_path):
    config = configured(shared, "llama", "lora", "task.targets=[q_proj,v_proj]")
    run, *_ = stored(config, tmp_path)
    assert main([str(run), str(tmp_path / "out")]) == 0
    return tmp_path / "out"


MISMATCHES = {
    "adapter.rank=3": "adapter.rank=3: ",
    "adapter.alpha=4": "adapter.alpha=4.0: ",
    "adapter=rslora": "adapter.name=rslora: ",
    "task.targets=[q_proj]": "task.targets: ",
    "task.targets=all-linear": "task.targets: layer model.layers.0.self_attn.k_proj has no lora_A.weight",
    "init=pissa": "init=pissa: ",
    "adapter.start_from=nowhere": "adapter.start_from=nowhere: there is no adapter_config.json",
    "task=teacher_student": "adapter.start_from=",
}


@pytest.mark.parametrize("override", MISMATCHES)
def test_a_folder_that_does_not_fit_is_refused_with_the_field(override, folder, shared):
    fields = ["task.targets=[q_proj,v_proj]", f"adapter.start_from={folder}"]
    configured(shared, "llama", "lora", *fields)
    if override == "task=teacher_student":
        with pytest.raises(ConfigError, match="is for transformers models"):
            configure(override, f"adapter.start_from={folder}")
        return
    if override == "adapter=rslora":
        with pytest.raises(ConfigError) as refused:
            configured(shared, "llama", "rslora", *fields)
    else:
        with pytest.raises(ConfigError) as refused:
            configured(shared, "llama", "lora", *fields, override)
    assert str(refused.value).startswith(MISMATCHES[override]), refused.value


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


DAMAGES = {
    "no weights": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "cut weights": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0"),
    "cut config": lambda folder: (folder / "adapter_config.json").write_text('{"r": 4'),
    "another model": lambda folder: save_file(
        {n: t[..., :5].contiguous() for n, t in load_file(folder / "adapter_model.safetensors").items()},
        folder / "adapter_model.safetensors",
    ),
    "unknown tensors": lambda folder: save_file(
        load_file(folder / "adapter_model.safetensors") | {"base_model.model.lm_head.weight": torch.zeros(2, 2)},
        folder / "adapter_model.safetensors",
    ),
    "another base": lambda folder: edit(folder, init_lora_weights="pissa_niter_4"),
    "more than LoRA": lambda folder: edit(folder, bias="all"),
    "a scale a layer": lambda folder: edit(folder, alpha_pattern={"q_proj": 2.0}),
    "a rank a layer that is not": lambda folder: edit(
        folder, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3.0}
    ),
    "another kind": lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused(damage, folder, shared):
    DAMAGES[damage](folder)
    with pytest.raises(ConfigError, match=r"^(adapter\.start_from=|task\.targets: .*holds lm_head)"):
        configured(shared, "llama", "lora", "task.targets=[q_proj,v_proj]", f"adapter.start_from={folder}")


def test_a_head_of_another_size_and_dropout_that_a_product_would_miss_are_refused(shared, tmp_path):
    run, *_ = stored(configured(shared, "roberta", "lora"), tmp_path)
    main([str(run), str(tmp_path / "out")])
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    name = "base_model.model.classifier.out_proj.weight"
    save_file(weights | {name: weights[name][:2].contiguous()}, tmp_path / "out" / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"^task.labels: .*out_proj"):
        configured(shared, "roberta", "lora", f"adapter.start_from={tmp_path / 'out'}")
    with pytest.raises(ConfigError, match=r"^adapter.dropout=0.1: init=pissa takes 0"):
        configured(shared, "llama", "lora", "init=pissa", "adapter.dropout=0.1")


def test_what_cannot_be_exported_is_said(shared, tmp_path, capsys, cli, outputs):
    cli("steps=1", "task.width=8", "task.train_points=4")
    [toy] = outputs.glob("runs/scratch/*/meta.json")
    run, *_ = stored(configured(shared, "llama", "lora"), tmp_path)
    for arguments, message in (
        ([str(toy.parent), str(tmp_path / "a")], "task=teacher_student has no transformers model"),
        ([str(tmp_path), str(tmp_path / "a")], "is not the folder of a run"),
        ([str(run), str(tmp_path)], "is there already"),
    ):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and message in err
    (run / "adapter.safetensors").write_bytes(b"")
    assert main([str(run), str(tmp_path / "a")]) == 2 and "is damaged" in capsys.readouterr().err

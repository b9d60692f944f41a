"""What docs/extending.md says it takes to add a part, done as it says; and how many places other parts take."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import reference
import test_inits
import test_metrics
from conftest import configure
from synthetic import sweep

from analysis import figures
from analysis.__main__ import main as analyse
from runner.adapters import lora
from runner.config.compose import register
from runner.config.registry import ADAPTERS, INITS, OPTIMIZERS
from runner.inits import etf, random
from runner.training.measure import metrics
from runner.training.measure.metrics import METRICS
from runner.training.optimizers import sgd

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "extending.md").read_text()
TINY = ["task.width=32", "task.teacher_width=16", "task.train_points=20", "steps=3"]


def block(first_line: str) -> str:
    """The page's block of code that begins with this comment."""
    [found] = re.findall(rf"```\w+\n# {re.escape(first_line)}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture
def conf(tmp_path):
    """Add a YAML file to a folder of configurations, which is on the command line."""

    def write(group: str, name: str, text: str) -> list[str]:
        (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
        register()
        return ["--config-dir", str(tmp_path / "conf")]

    return write


@pytest.fixture
def declared():
    """Names that a test declares, gone after it."""
    names = []
    yield names
    for registry, name in names:
        registry.parts.pop(name, None), registry.options.pop(name, None)


def declare(source: str, module: ModuleType) -> dict:
    """Run source code as if it stood at the end of the module."""
    space = dict(vars(module))
    exec(source, space)
    return space


@pytest.fixture
def orthonormal_A(conf, declared, monkeypatch) -> list[str]:
    declared.append((INITS, "orthonormal_A"))
    declare(block("runner/inits/random.py"), random)
    monkeypatch.setattr(test_inits, "ROWS", dict(test_inits.ROWS))
    exec(f"ROWS |= {{{block('tests/test_inits.py, a row of ROWS')}}}", vars(test_inits))
    monkeypatch.setattr(test_inits, "options", lambda name: {})
    return conf("init", "orthonormal_A", block("conf/init/orthonormal_A.yaml"))


def test_an_initialization_is_a_function_a_file_and_a_test_row(orthonormal_A, cli):
    code, out, err = cli(*orthonormal_A, "init=orthonormal_A", "task.width=32", "steps=3")
    assert code == 0 and "orthonormal_A" in out, err
    test_inits.test_every_init_has_a_row_here()
    test_inits.test_distribution("orthonormal_A")
    test_inits.ROWS["orthonormal_A"] = test_inits.ROWS["kaiming_A"]  # a wrong row: the test must tell
    with pytest.raises(AssertionError):
        test_inits.test_distribution("orthonormal_A")


def test_it_is_unknown_without_them(cli):
    code, _, err = cli("init=orthonormal_A")
    assert code == 2 and "init=orthonormal_A: unknown" in err
    assert configure().init.name == "gaussian_A"


def test_the_page_shows_options_as_they_are():
    assert block("runner/inits/etf.py, as it is there") in Path(etf.__file__).read_text()


PARTS = {
    "init": (
        INITS,
        random,
        """
@dataclass
class ShiftedOptions(InitOptions):
    shift: float = option("added to every entry of A", POSITIVE)

@init(ShiftedOptions)
def new(layer: Layer, shift: float) -> Start:
    start = gaussian_A(layer)
    return start._replace(A=start.A + shift)
""",
        "defaults:\n  - /schema/init@_here_: new\n  - _self_\n\nshift: 0.5\n",
        "shift",
    ),
    "adapter": (
        ADAPTERS,
        lora,
        """
@dataclass
class PowerOptions(LoRAOptions):
    power: float = option("s = alpha / r^power", POSITIVE)

@adapter("new", PowerOptions)
class PowerLoRA(LoRA):
    peft = MappingProxyType({"peft_type": "OTHER"})

    @classmethod
    def scale_of(cls, options):
        return options.alpha / options.rank**options.power
""",
        "defaults:\n  - /schema/adapter@_here_: new\n  - _self_\n\nrank: 4\nalpha: 1.0\npower: 0.25\n",
        "power",
    ),
    "optimizer": (
        OPTIMIZERS,
        sgd,
        """
@dataclass
class DampedOptions(CommonOptions):
    damping: float = option("divides the step", FRACTION, per_run=True)

@optimizer("new", DampedOptions)
class Damped(Optimizer):
    @property
    def state(self):
        return {}

    @torch.no_grad()
    def step(self, gradients, lrs):
        for p, g, lr in zip(self.parameters, gradients, lrs, strict=True):
            p.sub_(per_run(lr / self.damping, p) * g)
""",
        "defaults:\n  - /schema/optimizer@_here_: new\n  - _self_\n\nlr: 1e-2\nlr_ratio: 1.0\nweight_decay: 0.0\n"
        "schedule: constant\nwarmup: 0\n"
        "clip: null\ndamping: 2.0\n",
        "damping",
    ),
}


@pytest.mark.parametrize("group", PARTS)
def test_a_part_with_an_option_is_one_module_and_one_file(group, conf, declared, cli, outputs):
    """Trained, stacked over its option, checked, in `--help` and in messages: nothing else has to know it."""
    registry, module, source, yaml, field = PARTS[group]
    declared.append((registry, "new"))
    declare(source, module)
    arguments = conf(group, "new", yaml)
    code, _, err = cli(*arguments, "-m", f"{group}=new", f"{group}.{field}=0.5,0.75", *TINY)
    assert code == 0, err
    losses = {json.loads(path.read_text())["final_loss"] for path in outputs.glob("runs/scratch/*/summary.json")}
    assert len(losses) == 2
    code, _, err = cli(*arguments, f"{group}=new", f"{group}.{field}=-1", *TINY)
    assert code == 2 and f"{group}.{field}=-1.0: must be " in err
    assert f"{field}: " in cli(*arguments, f"{group}=new", "--help")[1]
    assert ", new" in cli(f"{group}.name=foo")[2]


@pytest.fixture
def param_A_max(monkeypatch):
    monkeypatch.setattr(reference, "COLUMNS", dict(reference.COLUMNS))
    declare(block("runner/training/measure/metrics.py"), metrics)
    exec(f"COLUMNS |= {{{block('tests/reference.py, an entry of COLUMNS')}}}", vars(reference))
    yield
    del METRICS["param/A_max"]


@pytest.mark.parametrize("adapter", ["lora", "vera"])
def test_a_metric_is_a_function_and_its_slow_twin(param_A_max, cli, outputs, adapter):
    tensors = test_metrics.draw_tensors()
    for measure in (test_metrics.by_functions, test_metrics.by_kernels):
        test_metrics.test_every_column_agrees_with_its_definition(tensors, measure)
    assert cli(*TINY, f"adapter={adapter}")[0] == 0
    steps = pd.read_parquet(next(outputs.glob("runs/scratch/*/steps.parquet")))
    assert (steps[f"param/{'A' if adapter == 'lora' else 'd'}_max"] > 0).all()
    reference.COLUMNS["param/A_max"] = lambda run: run.A.max().item()  # a wrong twin: the test must tell
    with pytest.raises(AssertionError):
        test_metrics.test_every_column_agrees_with_its_definition(tensors, test_metrics.by_kernels)


@pytest.fixture
def balance(monkeypatch):
    module = ModuleType("analysis.figures.balance")
    exec(block("analysis/figures/balance.py"), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(figures, "NAMES", [*figures.NAMES, "balance"])


def test_a_figure_is_a_module(balance, outputs, capsys):
    frame = sweep().assign(balance=1.0)
    (outputs / "records").mkdir(parents=True)
    frame.to_parquet(outputs / "records" / "lr_vs_width.parquet")
    assert analyse(["balance", "--outputs", str(outputs)]) == 0
    assert "gradient flow" in capsys.readouterr().out
    assert {path.name for path in (outputs / "figures").iterdir()} == {"balance.pdf", "balance.png", "balance.md"}
    assert [panel.get_title() for panel in figures.draw("balance", [frame]).axes] == ["$n = 128$", "$n = 1024$"]

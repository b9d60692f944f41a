"""The configuration: the fields that every run has. Those of a choice are declared beside its code, see `registry`."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from runner.config.options import (
    ABOVE_1,
    AT_LEAST_0,
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    SIZE,
    SWITCH,
    Allowed,
    Switch,
    choices,
    integers,
    option,
)

DTYPES = ("float32", "float64")
MOST_WORKERS = 1024


@dataclass
class Choice:
    """What was chosen in one of the groups of `conf/`."""

    name: str = MISSING


@dataclass
class TaskOptions(Choice):
    pass


@dataclass
class AdapterOptions(Choice):
    # Of an adapter that has no such field.
    rank: ClassVar[int] = 0
    dropout: ClassVar[float] = 0.0
    start_from: ClassVar[str | None] = None


@dataclass
class InitOptions(Choice):
    scale: float = option("multiplies what the init returns", POSITIVE, default=1.0)

    def options(self) -> dict[str, Any]:
        """What the init's function takes beside its layer."""
        return {name: value for name, value in vars(self).items() if name not in ("name", "scale", "examples")}


@dataclass
class OptimizerOptions(Choice):
    pass


@dataclass
class TrackerOptions(Choice):
    pass


@dataclass
class ExecutorOptions(Choice):
    """Of one that trains on this machine."""

    gpus: ClassVar[int | None] = None  # of a stack elsewhere
    memory: ClassVar[float | None] = None


@dataclass
class RemoteOptions(ExecutorOptions):
    """Of one that trains elsewhere: what a stack gets there."""

    cpus: int = option("cores of a stack", AT_LEAST_1)
    gpus: int = option("GPUs of a stack, 0 or 1", integers(0, 1))
    memory: float = option("GiB of memory of a stack; with a GPU, of the GPU's, too", POSITIVE)


@dataclass
class LogConfig:
    every: int = option("steps between rows of steps.parquet", AT_LEAST_1)
    layers: Switch = option("whether each layer's columns are kept too, in layers.parquet", SWITCH)
    weights: Switch | None = option(
        "whether what was trained is kept, in adapter.safetensors; null: where runner.export can read it",
        SWITCH,
    )
    directions: Switch = option(
        "whether lengths and directions of the weights' rows are followed, as they always are for DoRA", SWITCH
    )
    subspaces: Switch = option(
        "whether the spans of A and B are followed, and the singular values of s·B·A", SWITCH, before=False
    )
    noise: Switch = option(
        "whether it is measured how much of a model's gradient is noise of the examples that a step saw",
        SWITCH,
        before=False,
    )


@dataclass
class EvalConfig:
    every: int = option("steps between held-out losses", AT_LEAST_1)


@dataclass
class ProbeConfig:
    size: int = option("features are measured on the first so many training inputs (on all, if there are fewer)", SIZE)


@dataclass
class StabilityConfig:
    max_ratio: float = option(
        "a run whose loss exceeds this many times its initial loss has diverged", ABOVE_1, per_run=True
    )


@dataclass
class SharpnessConfig:
    every: int | None = option(
        "steps between looks at how sharp the loss is: at the critical rate, which takes as long as 1.5 steps; null: none",
        AT_LEAST_1,
        before=None,
    )
    eigenvalues: int = option(
        "of so many looks, one is at the two largest eigenvalues, too, which takes as long as 16 steps more",
        AT_LEAST_1,
        default=20,
        only_with="every",
    )


@dataclass
class StoreConfig:
    claims: str = option(
        "how processes that share outputs keep from training the same run: by locks of the file system, or by files, where "
        "machines do not see each other's locks",
        choices("lock", "lease"),
    )


@dataclass
class StackConfig:
    max_bytes: int | None = option(
        "a stack stays within this many bytes; null: a quarter of what is free, shared by the workers", AT_LEAST_1
    )


@dataclass
class SearchConfig:
    within: float = option(
        "a search for a rate (optimizer.lr=interval(…)) ends once the ratio of its interval's ends is at most this",
        ABOVE_1,
    )
    max_runs: int | None = option("runs that a command's searches may take; null: as many as they need", AT_LEAST_1)
    minutes: float | None = option("no round starts that would end after so many minutes; null: no limit", POSITIVE)


@dataclass
class CheckpointConfig:
    minutes: float = option(
        "a stack that trains for longer saves its state this often; the same command resumes it", NOT_NEGATIVE
    )


EXPERIMENT = Allowed(
    "a name of up to 100 letters, digits, '_', '-' and '.', and no number, true, false or null",
    lambda x: re.fullmatch(r"\w[\w.-]{0,99}", x) is not None,
)
DEVICE = Allowed(
    "auto | cpu | cuda | cuda:<index>",
    lambda x: re.fullmatch(r"auto|cpu|cuda(:\d+)?", x, re.ASCII) is not None,
    ("auto", "cpu", "cuda", "cuda:<index>"),
)
FOLDER = Allowed("the name of a folder, such as outputs", lambda x: bool(x.strip()))
PROCESSES = Allowed(
    f"auto or an integer from 1 to {MOST_WORKERS}",
    lambda x: x == "auto" or (isinstance(x, int) and not isinstance(x, bool) and 1 <= x <= MOST_WORKERS),
)


@dataclass
class Config:
    experiment: str = option("folder under outputs/runs; an experiment file sets its own name", EXPERIMENT)
    task: TaskOptions = field(default_factory=TaskOptions)
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    init: InitOptions = field(default_factory=InitOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    tracker: TrackerOptions = field(default_factory=TrackerOptions)
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)
    steps: int = option("updates", SIZE)
    seed: int = option("draws base, data and adapter, each from its own stream", AT_LEAST_0)
    dtype: str = option("of what trains, and of the base where task.base_dtype does not say", choices(*DTYPES))
    device: str = option("auto is the GPU when there is one", DEVICE)
    tf32: Switch = option(
        "whether a GPU rounds what it multiplies to 10 bits of mantissa (TF32), faster than float32",
        SWITCH,
        before=False,
    )
    engine: str = option(
        "fused: LoRA, rsLoRA, VeRA on teacher_student, feature_regression and sine; compiled: models, by torch's inductor; both "
        "on the CPU; auto takes fused where it can, and compiled where the sweep is long enough to pay",
        choices("auto", "autograd", "compiled", "fused"),
    )
    workers: int | str = option(
        "processes that train side by side, with the threads and GPUs divided among them; 1 trains in the command's own; with "
        "executor=slurm or ray, stacks that train at the same time",
        PROCESSES,
    )
    retrain: str | None = option(
        "missing: also train finished and diverged runs again that lack a column which is measured now; null: none of them",
        choices("missing"),
    )
    outputs: str = option("root of runs, records and figures", FOLDER)
    bases: str = option("where small language models, pretrained here, are kept for all sweeps", FOLDER)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    sharpness: SharpnessConfig = field(default_factory=SharpnessConfig)
    stack: StackConfig = field(default_factory=StackConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    store: StoreConfig = field(default_factory=StoreConfig)

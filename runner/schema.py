"""The configuration's schema: the dataclasses that type every YAML file under `conf/`.

MISSING means that the value comes from YAML, where its unit or its reason stands beside it.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the field, its value, what is allowed and what to do."""


@dataclass
class TaskConfig:
    name: str = MISSING
    width: int = MISSING
    train_points: int = MISSING
    test_points: int = MISSING

    def layer_shape(self) -> tuple[int, int]:
        """(n_out, n_in) of the adapted layer."""
        return self.width, self.width


@dataclass
class TeacherStudentConfig(TaskConfig):
    input_dim: int = MISSING
    residual: bool = MISSING
    out_exponent: float = MISSING
    teacher: str = MISSING
    teacher_width: int = MISSING
    teacher_rank: int = MISSING


@dataclass
class FeatureRegressionConfig(TaskConfig):
    input_dim: int = MISSING
    target_rank: int = MISSING


@dataclass
class LinearConfig(TaskConfig):
    outputs: int = MISSING

    def layer_shape(self) -> tuple[int, int]:
        return self.outputs, self.width


@dataclass
class AdapterConfig:
    name: str = MISSING
    rank: int = MISSING
    alpha: float = MISSING


@dataclass
class InitConfig:
    name: str = MISSING
    scale: float = 1.0


@dataclass
class OptimizerConfig:
    name: str = MISSING
    lr: float = MISSING
    lr_ratio: float = MISSING
    weight_decay: float = MISSING
    schedule: str = MISSING
    warmup: int = MISSING


@dataclass
class AdamWConfig(OptimizerConfig):
    beta1: float = MISSING
    beta2: float = MISSING
    eps: float = MISSING


@dataclass
class SGDConfig(OptimizerConfig):
    momentum: float = MISSING


@dataclass
class SignSGDConfig(OptimizerConfig):
    pass


@dataclass
class TrackerConfig:
    name: str = MISSING


@dataclass
class WandbConfig(TrackerConfig):
    project: str = MISSING
    entity: str | None = None
    mode: str = MISSING


@dataclass
class LogConfig:
    every: int = 1


@dataclass
class EvalConfig:
    every: int = 10


@dataclass
class ProbeConfig:
    size: int = 64


@dataclass
class StabilityConfig:
    max_ratio: float = 100.0


@dataclass
class StackConfig:
    max_bytes: int | None = None


@dataclass
class Config:
    experiment: str = MISSING
    task: TaskConfig = field(default_factory=TaskConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    steps: int = MISSING
    seed: int = MISSING
    dtype: str = MISSING
    device: str = MISSING
    engine: str = MISSING
    workers: int | str = MISSING
    outputs: str = MISSING
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    stack: StackConfig = field(default_factory=StackConfig)

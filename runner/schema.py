"""The configuration's schema: the dataclasses that type every YAML file under `conf/`.

MISSING means that the value comes from YAML, where its unit or its reason stands beside it.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the field, its value, what is allowed and what to do."""


@dataclass
class TaskConfig:
    name: str = MISSING


@dataclass
class ToyConfig(TaskConfig):
    width: int = MISSING
    train_points: int = MISSING
    test_points: int = MISSING

    def layer_shape(self) -> tuple[int, int]:
        """(n_out, n_in) of the adapted layer."""
        return self.width, self.width


@dataclass
class TeacherStudentConfig(ToyConfig):
    input_dim: int = MISSING
    residual: bool = MISSING
    out_exponent: float = MISSING
    teacher: str = MISSING
    teacher_width: int = MISSING
    teacher_rank: int = MISSING


@dataclass
class FeatureRegressionConfig(ToyConfig):
    input_dim: int = MISSING
    target_rank: int = MISSING


@dataclass
class SineConfig(ToyConfig):
    input_dim: int = MISSING


@dataclass
class LinearConfig(ToyConfig):
    outputs: int = MISSING

    def layer_shape(self) -> tuple[int, int]:
        return self.outputs, self.width


@dataclass
class ModelConfig(TaskConfig):
    """What tasks on transformers models share. `width` and `layers` of a checkpoint are its own (null until resolved)."""

    model: str = MISSING
    width: int | None = MISSING
    layers: int | None = MISSING
    base_seed: int = MISSING
    pretrain_steps: int = MISSING
    base_dtype: str | None = MISSING
    targets: Any = MISSING  # str or list of str
    dataset: str = MISSING
    subset: str | None = MISSING
    train_split: str = MISSING
    eval_split: str = MISSING
    eval_dataset: str | None = MISSING
    text_columns: list[str] = MISSING
    sequence_length: int = MISSING
    batch_size: int = MISSING
    accumulation: int = MISSING
    eval_sequences: int = MISSING


@dataclass
class LanguageModelConfig(ModelConfig):
    pass


@dataclass
class ClassificationConfig(ModelConfig):
    label_column: str = MISSING
    labels: int = MISSING


@dataclass
class AdapterConfig:
    name: str = MISSING
    rank: int = MISSING
    dropout: float = 0.0
    start_from: str | None = None


@dataclass
class LoRAConfig(AdapterConfig):
    alpha: float = MISSING


@dataclass
class DoRAConfig(LoRAConfig):
    norm_gradient: bool = MISSING


@dataclass
class VeRAConfig(AdapterConfig):
    projection_key: int | None = MISSING


@dataclass
class InitConfig:
    name: str = MISSING
    scale: float = 1.0

    def options(self) -> dict[str, Any]:
        """What the init's function takes beside its site."""
        return {name: value for name, value in vars(self).items() if name not in ("name", "scale", "examples")}


@dataclass
class GaussianABConfig(InitConfig):
    subtract: bool = MISSING
    B_variance: str = MISSING


@dataclass
class ETFConfig(InitConfig):
    vectors: str = MISSING


@dataclass
class LoftQConfig(InitConfig):
    iterations: int = MISSING
    block: int = MISSING


@dataclass
class DataConfig(InitConfig):
    """What inits that look at data share: how many training examples the frozen model is shown."""

    examples: int = MISSING


@dataclass
class EVAConfig(DataConfig):
    rho: float = MISSING


@dataclass
class CorDAConfig(DataConfig):
    mode: str = MISSING
    damping: float = MISSING


@dataclass
class LoRAGAConfig(DataConfig):
    gamma: float = MISSING
    rule: str = MISSING


@dataclass
class LoRAOneConfig(DataConfig):
    gamma: float = MISSING


@dataclass
class VeraB0Config(InitConfig):
    d_initial: float = MISSING


@dataclass
class VeraD0Config(InitConfig):
    b_std: float = MISSING


@dataclass
class OptimizerConfig:
    name: str = MISSING
    lr: float = MISSING
    lr_ratio: float = MISSING
    weight_decay: float = MISSING
    schedule: str = MISSING
    warmup: int = MISSING
    clip: float | None = MISSING


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
    layers: bool = False
    directions: bool = False
    weights: bool | None = None


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
class CheckpointConfig:
    minutes: float = 5.0


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
    bases: str = MISSING
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    stack: StackConfig = field(default_factory=StackConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

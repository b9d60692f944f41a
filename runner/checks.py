"""The checks a type cannot make: ranges, names that exist, ranks that fit. Each failure is one clear message."""

import math
import re
from collections.abc import Iterable
from typing import Any

import torch

from runner.adapters import ADAPTERS
from runner.inits import INITS
from runner.optim import OPTIMIZERS, SCHEDULES
from runner.schema import Config, ConfigError
from runner.tasks import TASKS
from runner.track import MODES, TRACKERS

DTYPES = ("float32", "float64")
ENGINES = ("auto", "autograd", "fused")
MOST_WORKERS = 1024
TEACHERS = ("separate", "same_base")

POSITIVE = ("a finite number above 0", lambda x: math.isfinite(x) and x > 0)
NOT_NEGATIVE = ("a finite number, 0 or above", lambda x: math.isfinite(x) and x >= 0)
LARGEST = 2**24
SIZE = (f"an integer from 1 to {LARGEST}", lambda x: 1 <= x <= LARGEST)
AT_LEAST_1 = ("an integer of at least 1", lambda x: x >= 1)
AT_LEAST_0 = ("an integer of at least 0", lambda x: x >= 0)
SEED = ("an integer from 0 to 2^63 - 1", lambda x: 0 <= x < 2**63)
FRACTION = ("in [0, 1)", lambda x: 0 <= x < 1)
ABOVE_1 = ("a number above 1", lambda x: x > 1)
FINITE = ("a finite number", math.isfinite)

RANGES = {
    "task.width": SIZE,
    "task.train_points": SIZE,
    "task.test_points": SIZE,
    "task.input_dim": SIZE,
    "task.out_exponent": FINITE,
    "task.teacher_width": SIZE,
    "task.teacher_rank": SIZE,
    "task.target_rank": SIZE,
    "task.outputs": SIZE,
    "task.layers": ("an integer from 1 to 1024", lambda x: 1 <= x <= 1024),
    "task.base_seed": AT_LEAST_0,
    "task.pretrain_steps": AT_LEAST_0,
    "task.sequence_length": (f"an integer from 2 to {LARGEST}", lambda x: 2 <= x <= LARGEST),
    "task.batch_size": SIZE,
    "task.accumulation": SIZE,
    "task.eval_sequences": SIZE,
    "task.labels": ("an integer from 2 to 10000", lambda x: 2 <= x <= 10000),
    "adapter.rank": SIZE,
    "adapter.alpha": POSITIVE,
    "adapter.dropout": FRACTION,
    "adapter.projection_key": SEED,
    "init.scale": POSITIVE,
    "init.examples": SIZE,
    "init.rho": ("a number from 1 to 1000", lambda x: 1 <= x <= 1000),
    "init.damping": POSITIVE,
    "init.gamma": POSITIVE,
    "init.iterations": ("an integer from 1 to 100", lambda x: 1 <= x <= 100),
    "init.block": SIZE,
    "init.d_initial": POSITIVE,
    "init.b_std": POSITIVE,
    "optimizer.lr": POSITIVE,
    "optimizer.lr_ratio": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.warmup": AT_LEAST_0,
    "optimizer.clip": POSITIVE,
    "optimizer.beta1": FRACTION,
    "optimizer.beta2": FRACTION,
    "optimizer.eps": POSITIVE,
    "optimizer.momentum": FRACTION,
    "steps": SIZE,
    "seed": SEED,
    "log.every": AT_LEAST_1,
    "eval.every": AT_LEAST_1,
    "probe.size": SIZE,
    "stability.max_ratio": ABOVE_1,
    "stack.max_bytes": AT_LEAST_1,
    "checkpoint.minutes": NOT_NEGATIVE,
}

CHOICES: dict[str, Iterable[str]] = {
    "task.name": TASKS,
    "task.teacher": TEACHERS,
    "adapter.name": ADAPTERS,
    "init.name": INITS,
    "init.B_variance": ("layer", "rank", "unit"),
    "init.vectors": ("rows", "columns"),
    "init.mode": ("ipm", "kpm"),
    "init.rule": ("authors", "peft"),
    "optimizer.name": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
    "tracker.name": TRACKERS,
    "tracker.mode": MODES,
    "dtype": DTYPES,
    "task.base_dtype": (*DTYPES, "bfloat16"),
    "engine": ENGINES,
}


def validate(config: Config) -> None:
    """Raise ConfigError at the first field of the `Config` that cannot be run."""
    for field, (allowed, accepts) in RANGES.items():
        value = _get(config, field)
        if value is not None and not accepts(value):
            raise ConfigError(f"{field}={value}: must be {allowed}")
    for field, names in CHOICES.items():
        value = _get(config, field)
        if value is not None and value not in names:
            raise ConfigError(f"{field}={value}: unknown; choose one of {', '.join(names)}")
    if not re.fullmatch(r"\w[\w.-]{0,99}", config.experiment):
        raise ConfigError(
            f"experiment={config.experiment!r}: names a folder; use up to 100 letters, digits, '_', '-' and '.'"
        )
    if config.workers != "auto" and not (isinstance(config.workers, int) and 1 <= config.workers <= MOST_WORKERS):
        raise ConfigError(f"workers={config.workers}: must be auto or an integer from 1 to {MOST_WORKERS}")
    if not config.outputs:
        raise ConfigError("outputs='': must name a folder, such as outputs=outputs")
    if not config.bases:
        raise ConfigError("bases='': must name a folder, such as bases=outputs/bases")
    task = TASKS[config.task.name]
    task.check(config)
    for layer, shape in task.shapes(config.task).items():
        # VeRA's r is the length of d, and no rank; a folder may hold factors of twice a run's rank.
        if config.adapter.name != "vera" and config.adapter.start_from is None:
            _check_rank("adapter.rank", config.adapter.rank, layer, shape)
        if (rank := _get(config, "task.target_rank")) is not None:
            _check_rank("task.target_rank", rank, layer, shape)
    if config.adapter.name == "dora" and config.adapter.dropout:
        raise ConfigError(
            f"adapter.dropout={config.adapter.dropout}: adapter=dora takes 0; what is dropped would have to pass W0 once more"
        )
    _check_init(config)
    resolve_engine(config)


def resolve_device(name: str) -> torch.device:
    """The torch device that `device` names; `auto` is the GPU when there is one. Raises ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name}: unknown; choose auto, cpu, cuda or cuda:<index>") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={name}: not supported; choose auto, cpu, cuda or cuda:<index>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use device=cpu or device=auto"
        )
    return device


def resolve_engine(config: Config) -> str:
    """`fused` or `autograd`; `auto` is fused where that applies. Raises ConfigError."""
    if resolve_device(config.device).type != "cpu":
        reason = f"it runs on the CPU, not on device={config.device}"
    elif not TASKS[config.task.name].fused:
        reason = f"it does not know the loss of task={config.task.name}"
    elif not ADAPTERS[config.adapter.name].fused:
        reason = f"it does not know adapter={config.adapter.name}"
    else:
        return "autograd" if config.engine == "autograd" else "fused"
    if config.engine == "fused":
        raise ConfigError(f"engine=fused: {reason}; use engine=auto or engine=autograd")
    return "autograd"


def _check_init(config: Config) -> None:
    """That the adapter, the task and the layers can take the init."""
    chosen, task = INITS[config.init.name], TASKS[config.task.name]
    of_adapter = [name for name, init in INITS.items() if set(init.gives) <= ADAPTERS[config.adapter.name].sides.keys()]
    if config.init.name not in of_adapter:
        raise ConfigError(
            f"init={config.init.name}: adapter={config.adapter.name} cannot take it; choose one of {', '.join(of_adapter)}"
        )
    if config.adapter.dropout and chosen.residual(config.init):
        raise ConfigError(
            f"adapter.dropout={config.adapter.dropout}: init={config.init.name} takes 0; what is dropped would have to pass "
            "what it takes from the frozen weight"
        )
    default = "vera_b0" if config.adapter.name == "vera" else "gaussian_A"
    if config.adapter.start_from is not None and config.init.name != default:
        raise ConfigError(
            f"init={config.init.name}: a run that starts from adapter.start_from draws nothing; leave init at its default, "
            f"{default}"
        )
    if chosen.needs and not task.shows:
        others = ", ".join(name for name in of_adapter if not INITS[name].needs)
        raise ConfigError(
            f"init={config.init.name}: needs data that the frozen model can be shown, which task={config.task.name} has none of; "
            f"choose another task, or one of {others}"
        )
    for layer, shape in task.shapes(config.task).items():
        if reason := chosen.refuses(config.adapter.rank, shape, config.init):
            raise ConfigError(
                f"adapter.rank={config.adapter.rank}: init={config.init.name} {reason} (layer {layer}, {shape[0]}×{shape[1]})"
            )


def _check_rank(field: str, rank: int, layer: str, shape: tuple[int, int]) -> None:
    if rank > min(shape):
        raise ConfigError(
            f"{field}={rank}: exceeds min(n_out, n_in)={min(shape)} of the adapted layer {layer}, {shape[0]}×{shape[1]}; "
            "lower the rank or widen the task"
        )


def _get(config: Any, path: str) -> Any:
    """The value at a dotted path, None where this kind of task or optimizer has no such field."""
    for name in path.split("."):
        config = getattr(config, name, None)
    return config

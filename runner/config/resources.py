"""The device and the engine that a configuration asks for."""

import torch

from runner.config.options import ConfigError
from runner.config.registry import ADAPTERS, TASKS
from runner.config.schema import Config


def resolve_device(name: str) -> torch.device:
    """The torch device that `device` names; `auto` is the GPU when there is one. Raises ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use device=cpu or device=auto"
        )
    return torch.device(name)


def device_of(config: Config) -> torch.device:
    """The kind of device that a run will be trained on, which may be another machine's. Raises ConfigError."""
    if config.executor.gpus is None:
        return resolve_device(config.device)
    kind, _, index = config.device.partition(":")
    if index:
        raise ConfigError(f"device={config.device}: which GPU a stack gets there is not chosen here; use device=auto")
    if kind == "cuda" and not config.executor.gpus:
        raise ConfigError(
            f"device={config.device}: executor.gpus=0 asks for no GPU there; use executor.gpus=1 or device=auto"
        )
    return torch.device("cuda" if config.executor.gpus and kind != "cpu" else "cpu")


def refusals(config: Config) -> dict[str, str | None]:
    """Engine -> why it cannot train a run, None where it can."""
    task, adapter = TASKS[config.task.name], ADAPTERS[config.adapter.name]
    if device_of(config).type != "cpu":
        reason = f"it runs on the CPU, not on device={config.device}"
        return {"autograd": None, "compiled": reason, "fused": reason}
    compiled = None if task.compiles else f"it is for models, not for task={config.task.name}"
    fused = None if adapter.fused else f"it does not know adapter={config.adapter.name}"
    if not task.fused:
        fused = f"it does not know the loss of task={config.task.name}"
    return {"autograd": None, "compiled": compiled, "fused": fused}


def check_tf32(config: Config) -> None:
    """Raise ConfigError where it is asked for and cannot be had."""
    if config.tf32 and device_of(config).type != "cuda":
        raise ConfigError(f"tf32=true: is of NVIDIA's GPUs; device={config.device} is none here, and takes false")


def resolve_engine(config: Config) -> str:
    """`fused`, `compiled` or `autograd`; `auto` is fused where that applies. Raises ConfigError.

    On a model `auto` is autograd until what `train` measures says that compiling pays.
    """
    reasons = refusals(config)
    if config.engine == "auto":
        return "autograd" if reasons["fused"] else "fused"
    if reason := reasons[config.engine]:
        raise ConfigError(f"engine={config.engine}: {reason}; use engine=auto or engine=autograd")
    return config.engine

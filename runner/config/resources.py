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

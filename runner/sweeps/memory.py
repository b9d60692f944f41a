"""What stacks take in memory, told beforehand; runs that no machine of this size can hold are refused."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from runner.config import Config, ConfigError
from runner.config.identity import with_values
from runner.config.options import described, shown
from runner.config.registry import TASKS
from runner.config.resources import device_of
from runner.sweeps.plan import ITEM_SIZE, bytes_per_run, numbers

CONTAINER = Path("/sys/fs/cgroup/memory.max")  # a number, or `max`
GIB = 2**30
OR_NO_BASELINE = "; where it is an experiment's baseline, hydra.sweeper.baselines=null leaves it out"


def check_fits(stacks: Iterable[Sequence[Config]]) -> None:
    """Raise ConfigError for the first stack of which even one run takes more than all memory of its device."""
    for config, *_ in stacks:
        device, needed, own = device_of(config), bytes_of_run(config), config.executor.memory
        if needed > (there := memory(device) if own is None else own * GIB):
            field, value = _largest(config)
            whose = f"the memory of {device}" if own is None else "executor.memory"
            raise ConfigError(
                f"{field}={shown(value)}: a run takes about {needed / GIB:,.1f} GiB, mostly for this, and {whose} "
                f"is {there / GIB:,.1f} GiB; choose a smaller one{OR_NO_BASELINE * (config.adapter.name == 'full')}"
            )


def bytes_of_run(config: Config) -> float:
    """What a run takes when it is trained alone."""
    return bytes_of_stack([config])


def bytes_of_stack(stack: Sequence[Config]) -> float:
    """What a stack takes: base, data, and what each run adds."""
    return TASKS[stack[0].task.name].frozen(stack[0]) + len(stack) * bytes_per_run(stack[0])


def extent(stacks: Sequence[Sequence[Config]]) -> str:
    """How many runs there are to train, in how many stacks, and the memory of the largest of these."""
    count = sum(map(len, stacks))
    if not count:
        return "no runs to train"
    taken = max(map(bytes_of_stack, stacks))
    size = f"{taken / GIB:,.1f} GiB" if taken > GIB / 10 else f"{max(1, taken / 2**20):,.0f} MiB"
    of = f"a stack of about {size}" if len(stacks) == 1 else f"{len(stacks)} stacks of up to {size}"
    return f"{count} run{'s' * (count > 1)} to train, in {of}"


def memory(device: torch.device) -> int:
    """Bytes of memory that there are, in use or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    there = psutil.virtual_memory().total
    with suppress(OSError, ValueError):
        there = min(there, int(CONTAINER.read_text()))
    return there


def _largest(config: Config) -> tuple[str, object]:
    """The field that counts most, and its value: a model's name, or the integer that saves most if it is halved."""
    values, whole = {name: value for name, value, _ in described(config)}, bytes_of_run(config)
    saved = {}
    for name, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            with suppress(ValueError):  # a model that cannot be that small
                share = 1 - bytes_of_run(with_values(config, {name: value // 2})) / whole
                saved[name] = (round(share, 1), value)  # of the factors of a product, the largest
    if "task.model" in values:
        saved["task.model"] = (round(_half_the_model(config) / whole, 1), 0)
    largest = max(saved, key=saved.get)
    return largest, values[largest]


def _half_the_model(config: Config) -> float:
    """Bytes that a model would save whose layers have half as many outputs."""
    task = TASKS[config.task.name]
    shapes = list(task.shapes(config.task).values())
    half = [(max(1, n_out // 2), n_in) for n_out, n_in in shapes]
    trained = numbers(config, shapes) - numbers(config, half)
    return task.frozen(config) / 2 + trained * ITEM_SIZE[config.dtype]

"""What the fields of a task on a model must be together, and those that its checkpoint fills in."""

import dataclasses

from runner.config import ConfigError
from runner.config.options import check_value
from runner.tasks.models import corpora, packages, spec
from runner.tasks.models.options import STANDARD, ModelOptions


def resolved(task: ModelOptions) -> ModelOptions:
    """A checkpoint has its own width and number of layers, llama_tiny those that it is given; a package has a version. Raises
    ConfigError."""
    pins = {field: packages.pinned(f"task.{field}", getattr(task, field)) for field in ("model", "dataset")}
    task = dataclasses.replace(task, **pins)
    if task.model == spec.LLAMA_TINY:
        missing = {field: value for field, value in spec.DEFAULTS.items() if getattr(task, field) is None}
        return type(task)(**(vars(task) | missing))
    if task.parametrization != STANDARD:
        raise ConfigError(
            f"task.parametrization={task.parametrization}: {task.model} is pretrained already; leave it at {STANDARD}, or use "
            f"task.model={spec.LLAMA_TINY}"
        )
    config = spec.configuration(task.model)
    own = {"width": config.hidden_size, "layers": config.num_hidden_layers}
    for field, value in own.items():
        [declared] = [each for each in dataclasses.fields(task) if each.name == field]
        try:
            check_value(f"its config.json says {field}", value, declared)
        except ConfigError as error:
            raise ConfigError(f"task.model={task.model}: {error}") from error
        if getattr(task, field) not in (None, value):
            raise ConfigError(
                f"task.{field}={getattr(task, field)}: {task.model} has {value}; leave it at null, or use "
                f"task.model={spec.LLAMA_TINY}"
            )
    return type(task)(**(vars(task) | own))


def check(task: ModelOptions, labels: int | None) -> None:
    """Raise ConfigError for what the ranges of single fields cannot know; `labels` as in `spec.of`."""
    corpora.check_fields(task)
    if not task.text_columns:
        raise ConfigError("task.text_columns=[]: must name at least one column")
    model = spec.of(task, labels)
    for target in [task.targets] if isinstance(task.targets, str) else task.targets or [""]:
        if not spec.select(list(model.layers), target):
            known = sorted({name.rpartition(".")[2] for name in model.layers})
            raise ConfigError(
                f"task.targets={target}: matches no linear layer of {task.model}; there are {', '.join(known)}, "
                f"and the kinds {', '.join(spec.KINDS)}"
            )
    if model.limit is not None and task.sequence_length > model.limit:
        raise ConfigError(f"task.sequence_length={task.sequence_length}: {task.model} takes up to {model.limit} tokens")
    if task.batch_size % task.accumulation:
        raise ConfigError(f"task.accumulation={task.accumulation}: must divide task.batch_size={task.batch_size}")

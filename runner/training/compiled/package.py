"""What inductor makes of a graph: a shared library, compiled once and kept under `bases`, for all workers and later commands."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from runner.config import ConfigError
from runner.core.messages import announce, first_line, say
from runner.tasks.models import kept

FILE = "step.pt2"
Step = Callable[..., Sequence[Tensor]]


def folder(bases: str, key: str) -> Path:
    """Where what was compiled is kept."""
    return Path(bases) / "compiled" / key


def is_kept(folder: Path) -> bool:
    return kept.is_intact(folder, FILE)


def compiled(graph: GraphModule, inputs: Sequence[Tensor], folder: Path, wait: bool) -> Step:
    """The graph as a function that runs it, compiled if it is not kept yet.

    Raises BusyError where another process is compiling it and `wait` is false; inductor raises errors of many kinds, among
    them those of machines without a compiler.
    """

    def make(new: Path) -> dict[str, Any]:
        started = perf_counter()
        announce("compiling the model's step: once for all such runs")
        new.mkdir(parents=True, exist_ok=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about its own parts
                program = torch.export.export(graph, tuple(inputs))
                torch._inductor.aoti_compile_and_package(program, package_path=str(new / FILE))
        except OSError as error:  # inductor's, and none of the folder's
            raise RuntimeError(first_line(error)) from error
        return {"seconds": round(perf_counter() - started, 1), "torch": torch.__version__}

    try:
        return load(kept.once(folder, make, FILE, wait))
    except ConfigError as error:
        say(f"what is compiled cannot be kept, so every worker compiles it again ({error})")
    with tempfile.TemporaryDirectory() as new:
        make(Path(new))
        return load(Path(new))


def load(folder: Path) -> Step:
    """What is kept there; past torch's wrapper, which sorts some hundred inputs into a tree and out of it at every call."""
    loader = torch._inductor.aoti_load_package(str(folder / FILE)).loader
    return lambda *inputs: loader.run(list(inputs))

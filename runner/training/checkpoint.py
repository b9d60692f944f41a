"""The state of a stack in training, kept every few minutes, so that one that is killed goes on from there.

One file a stack in `outputs/runs/<experiment>/.checkpoints`: a safetensors file whose metadata name the step that comes
next and the runs, in the order in which the tensors hold them. Data order is a function of seed and step, so no generator
has a state to keep. Whoever trains a stack has claimed its runs, and with them its checkpoint.
"""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from runner.config import Config
from runner.config.identity import run_id
from runner.core.messages import say

_leaving = threading.Event()


def leave() -> None:
    """Let this process save what it trains after the step that it is at, and end training as Ctrl-C does."""
    _leaving.set()


def stay() -> None:
    """Let it train on, until it is told to leave again."""
    _leaving.clear()


def leaves() -> bool:
    """Whether it has been told to."""
    return _leaving.is_set()


class Checkpoint:
    """Of the stack of these runs, which measures these `columns`, on the engine that began it."""

    def __init__(self, configs: Sequence[Config], columns: Sequence[str] = ()):
        self.columns = columns
        self.ids = [run_id(config) for config in configs]
        name = hashlib.sha256("".join(self.ids).encode()).hexdigest()[:16]
        self.path = _folder(configs[0]) / f"{name}.safetensors"
        self.new = self.path.with_suffix(".new")
        self.seconds = 60 * configs[0].checkpoint.minutes
        self.last = time.monotonic()
        self.engine: str | None = None

    def begun_by(self) -> str | None:
        """The engine of what was saved, for a run goes on as it began; None where nothing was."""
        header = _header(self.path) if self.path.exists() else None
        return header.engine if header else None

    def due(self) -> bool:
        return leaves() or time.monotonic() - self.last >= self.seconds

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        """Keep the state in which `step` comes next. A disk that is full costs the checkpoint, not the training."""
        self.last = time.monotonic()
        try:
            # In a folder of its own, where safetensors may leave behind a file of a name of its own, if it is killed.
            shutil.rmtree(self.new, ignore_errors=True)
            self.new.mkdir(parents=True)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            digest = _digest(self.ids, step, self.columns, tensors)
            metadata = {"runs": json.dumps(self.ids), "step": str(step), "sha256": digest, "engine": self.engine or ""}
            save_file(tensors, self.new / self.path.name, metadata=metadata)
            (self.new / self.path.name).replace(self.path)
        except (OSError, SafetensorError):
            pass
        finally:
            shutil.rmtree(self.new, ignore_errors=True)

    def restore(self, state: dict[str, Tensor]) -> int:
        """Copy what was saved into these tensors; the step that comes next, 0 where nothing usable was saved."""
        if not self.path.exists():
            return 0
        header = _header(self.path)
        saved = load_file(self.path) if header else {}
        fits = {name: t.shape for name, t in saved.items()} == {name: t.shape for name, t in state.items()}
        if not header or not fits or header.digest != _digest(self.ids, header.step, self.columns, saved):
            say(f"checkpoint damaged or of other code, training its {len(self.ids)} runs from the start: {self.path}")
            return 0
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved[name])
        return header.step

    def remove(self) -> None:
        """Once the stack has ended."""
        shutil.rmtree(self.new, ignore_errors=True)
        with suppress(OSError):
            self.path.unlink()


def resumable(todo: Sequence[Config]) -> list[list[Config]]:
    """The stacks among these unfinished runs that have a checkpoint; no run is in two of them."""
    by_folder: dict[Path, dict[str, Config]] = {}
    for config in todo:
        by_folder.setdefault(_folder(config), {})[run_id(config)] = config
    stacks = []
    for folder, left in by_folder.items():
        for path in sorted(folder.glob("*.safetensors")):
            runs = _runs(path)
            if runs and all(run in left for run in runs):
                stacks.append([left.pop(run) for run in runs])
    return stacks


def forget(done: Sequence[Config]) -> None:
    """Remove the checkpoints of stacks that lost a run to another arrangement: they will not be trained as such again."""
    finished = {run_id(config) for config in done}
    for folder in {_folder(config) for config in done}:
        for path in folder.glob("*.safetensors"):
            if finished & set(_runs(path)):
                with suppress(OSError):
                    path.unlink()


def _folder(config: Config) -> Path:
    return Path(config.outputs) / "runs" / config.experiment / ".checkpoints"


class _Header(NamedTuple):
    """`runs` (their ids), the `step` that comes next, the digest of these and the tensors, and the engine, if it is known."""

    runs: list[str]
    step: int
    digest: str
    engine: str | None


def _header(path: Path) -> _Header | None:
    """None where there is no such file or its metadata cannot be read. What it says is not checked: the digest does that."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        runs = json.loads(metadata["runs"])
        if not isinstance(runs, list) or not all(isinstance(run, str) for run in runs) or len(set(runs)) < len(runs):
            return None
        return _Header(runs, int(metadata["step"]), metadata["sha256"], metadata.get("engine") or None)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError):
        return None


def _runs(path: Path) -> list[str]:
    header = _header(path)
    return header.runs if header else []


def _digest(runs: list[str], step: int, columns: Sequence[str], tensors: dict[str, Tensor]) -> str:
    """Of runs, step, what is measured, and the tensors' names, shapes and contents: a power cut may leave a file of the right
    length without them."""
    digest = hashlib.sha256(json.dumps([runs, step, list(columns)]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

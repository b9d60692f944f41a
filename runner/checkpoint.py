"""The state of a stack in training, kept every few minutes, so that one that is killed goes on from there.

One file a stack in `outputs/runs/<experiment>/.checkpoints`: a safetensors file whose metadata name the step that comes
next and the runs, in the order in which the tensors hold them. Data order is a function of seed and step, so no generator
has a state to keep. Whoever trains a stack has claimed its runs, and with them its checkpoint.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from runner.config import run_id
from runner.schema import Config


class Checkpoint:
    """Of the stack of these runs."""

    def __init__(self, configs: Sequence[Config]):
        self.ids = [run_id(config) for config in configs]
        name = hashlib.sha256("".join(self.ids).encode()).hexdigest()[:16]
        self.path = _folder(configs[0]) / f"{name}.safetensors"
        self.seconds = 60 * configs[0].checkpoint.minutes
        self.last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.last >= self.seconds

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        """Keep the state in which `step` comes next. A disk that is full costs the checkpoint, not the training."""
        self.last = time.monotonic()
        new = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            save_file(tensors, new, metadata={"runs": json.dumps(self.ids), "step": str(step)})
            new.replace(self.path)
        except (OSError, SafetensorError):
            new.unlink(missing_ok=True)

    def restore(self, state: dict[str, Tensor]) -> int:
        """Copy what was saved into these tensors; the step that comes next, 0 where nothing usable was saved."""
        kept = _metadata(self.path)
        if kept is None or kept[0] != self.ids:
            return 0
        saved = load_file(self.path)
        if {n: (t.shape, t.dtype) for n, t in saved.items()} != {n: (t.shape, t.dtype) for n, t in state.items()}:
            return 0
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved[name])
        return kept[1]

    def remove(self) -> None:
        """Once the stack has ended."""
        self.path.unlink(missing_ok=True)


def resumable(todo: Sequence[Config]) -> list[list[Config]]:
    """The stacks among these unfinished runs that have a checkpoint; no run is in two of them."""
    by_folder: dict[Path, dict[str, Config]] = {}
    for config in todo:
        by_folder.setdefault(_folder(config), {})[run_id(config)] = config
    stacks = []
    for folder, left in by_folder.items():
        for path in sorted(folder.glob("*.safetensors")):
            kept = _metadata(path)
            if kept and all(run in left for run in kept[0]):
                stacks.append([left.pop(run) for run in kept[0]])
    return stacks


def _folder(config: Config) -> Path:
    return Path(config.outputs) / "runs" / config.experiment / ".checkpoints"


def _metadata(path: Path) -> tuple[list[str], int] | None:
    """(runs, next step); None where there is no such file or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        return json.loads(metadata["runs"]), int(metadata["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None

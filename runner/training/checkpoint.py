"""The state of a stack in training, kept every few minutes, so that one that is killed goes on from there.

One file a stack in `outputs/runs/<experiment>/.checkpoints`: a safetensors file whose metadata name the step that comes
next and the runs, in the order in which the tensors hold them. Data order is a function of seed and step, so no generator
has a state to keep. Whoever trains a stack has claimed its runs, and with them its checkpoint.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from runner.config import Config
from runner.config.identity import run_id
from runner.core.messages import say


class Checkpoint:
    """Of the stack of these runs."""

    def __init__(self, configs: Sequence[Config]):
        self.ids = [run_id(config) for config in configs]
        name = hashlib.sha256("".join(self.ids).encode()).hexdigest()[:16]
        self.path = _folder(configs[0]) / f"{name}.safetensors"
        self.new = self.path.with_suffix(".new")
        self.seconds = 60 * configs[0].checkpoint.minutes
        self.last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.last >= self.seconds

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        """Keep the state in which `step` comes next. A disk that is full costs the checkpoint, not the training."""
        self.last = time.monotonic()
        try:
            # In a folder of its own, where safetensors may leave behind a file of a name of its own, if it is killed.
            shutil.rmtree(self.new, ignore_errors=True)
            self.new.mkdir(parents=True)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            metadata = {"runs": json.dumps(self.ids), "step": str(step), "sha256": _digest(tensors)}
            save_file(tensors, self.new / self.path.name, metadata=metadata)
            (self.new / self.path.name).replace(self.path)
        except (OSError, SafetensorError):
            pass
        finally:
            shutil.rmtree(self.new, ignore_errors=True)

    def restore(self, state: dict[str, Tensor]) -> int:
        """Copy what was saved into these tensors; the step that comes next, 0 where nothing usable was saved."""
        metadata = _metadata(self.path)
        if metadata is None:
            return 0
        saved = load_file(self.path)
        if _digest(saved) != metadata["sha256"] or saved.keys() != state.keys():
            say(f"damaged checkpoint, training its {len(self.ids)} runs from the start: {self.path}")
            return 0
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved[name])
        return int(metadata["step"])

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
            runs = json.loads((_metadata(path) or {}).get("runs", "[]"))
            if runs and all(run in left for run in runs):
                stacks.append([left.pop(run) for run in runs])
    return stacks


def forget(done: Sequence[Config]) -> None:
    """Remove the checkpoints of stacks that lost a run to another arrangement: they will not be trained as such again."""
    finished = {run_id(config) for config in done}
    for folder in {_folder(config) for config in done}:
        for path in folder.glob("*.safetensors"):
            if finished & set(json.loads((_metadata(path) or {}).get("runs", "[]"))):
                with suppress(OSError):
                    path.unlink()


def _folder(config: Config) -> Path:
    return Path(config.outputs) / "runs" / config.experiment / ".checkpoints"


def _metadata(path: Path) -> dict[str, str] | None:
    """`runs`, `step` (that comes next) and `sha256`; None where there is no such file or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        return metadata if metadata.keys() == {"runs", "step", "sha256"} else None
    except (OSError, SafetensorError, AttributeError):
        return None


def _digest(tensors: dict[str, Tensor]) -> str:
    """Of names, shapes and contents: a power cut may leave a file of the right length without them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

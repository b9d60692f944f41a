"""The parts that can be chosen: tasks, adapters, inits, optimizers, trackers, executors.

Each is declared in a module of its package, under its name and with the dataclass of its options. A package is loaded when
something in it is looked up for the first time; a new part is a new module there, and a YAML file in `conf/<group>`.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


class Registry(Mapping[str, Any]):
    """Name -> the part that is declared under it in the modules of a package; `options` likewise: name -> dataclass."""

    def __init__(self, package: str):
        self.package, self.parts, self._options, self.loaded = package, {}, {}, False

    def declare(self, name: str, part: Any, options: type) -> None:
        """Enter a part. Raises ValueError where the name is taken."""
        if name in self.parts:
            raise ValueError(f"{self.package} declares {name!r} twice")
        self.parts[name], self._options[name] = part, options

    @property
    def options(self) -> dict[str, type]:
        self._load()
        return self._options

    def _load(self) -> None:
        if not self.loaded:
            for module in iter_modules(import_module(self.package).__path__):
                import_module(f"{self.package}.{module.name}")
            self.loaded = True

    def __getitem__(self, name: str) -> Any:
        self._load()
        return self.parts[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self.parts)

    def __len__(self) -> int:
        self._load()
        return len(self.parts)


TASKS = Registry("runner.tasks")
ADAPTERS = Registry("runner.adapters")
INITS = Registry("runner.inits")
OPTIMIZERS = Registry("runner.training.optimizers")
TRACKERS = Registry("runner.store.trackers")
EXECUTORS = Registry("runner.sweeps.executors")
# Groups of conf/, each a field of the configuration.
GROUPS = {
    "task": TASKS,
    "adapter": ADAPTERS,
    "init": INITS,
    "optimizer": OPTIMIZERS,
    "tracker": TRACKERS,
    "executor": EXECUTORS,
}

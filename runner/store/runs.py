"""The store: `outputs/runs/<experiment>/<run_id>/`, one directory per run, complete or not there at all.

A directory is written under a hidden name and renamed into place, by a process that holds the run's claim. A power cut may
still leave files without their contents; checksums tell, and the run is trained again. What is finished may be in a pack, too.
"""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from runner.config import Config, ConfigError
from runner.config.identity import run_id
from runner.store import packs
from runner.store.claims import Claims, Locks
from runner.store.leases import Leases
from runner.store.mounts import keeps_objects, mount_of
from runner.store.outcome import (
    DONE,
    FAILED,
    FILES,
    INTERRUPTED,
    LAYERS,
    META,
    STEPS,
    SUMMARY,
    WEIGHTS,
    DamagedRun,
    Outcome,
    contents_of,
    read_outcome,
    read_verified,
)

CLAIMS: dict[str, type[Claims]] = {"lock": Locks, "lease": Leases}  # by `store.claims`


class Store:
    """Runs under the root folder `outputs`, addressed by the content of their configuration, and claimed by whoever trains them.

    `claims`: how, as `store.claims`; None: it is only read. `parted` is called, from another thread, where this process has been
    parted from the folder, and from what it had claimed. A process has one store with locks. Raises ConfigError where none can be
    kept.
    """

    def __init__(self, root: str, claims: str | None = "lock", parted: Callable[[], None] = lambda: None):
        self.runs = Path(root) / "runs"
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            probe = self.runs / ".probe"  # one name for all, so that one left by a killed process goes with the next
            probe.touch()
            probe.unlink(missing_ok=True)
            self.claims = self._claims(claims, parted) if claims else None
        except OSError as error:
            raise ConfigError(
                f"outputs={root}: cannot write there ({error.strerror}); choose a folder you can write to"
            ) from error

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        if self.claims:
            self.claims.close()

    def _claims(self, name: str, parted: Callable[[], None]) -> Claims:
        self._check(name)
        claims = CLAIMS[name](self.runs, parted)
        try:
            self._check(name)  # another may have come at the same time
        except ConfigError:
            claims.close()
            raise
        return claims

    def _check(self, claims: str) -> None:
        """That all who use the folder claim in the same way, and on a file system on which a store can be kept."""
        for name, kind in CLAIMS.items():
            if name != claims and (self.runs / kind.mark).exists():
                raise ConfigError(
                    f"store.claims={claims}: runs in {self.runs} were claimed by store.claims={name}; use that, or, once nothing "
                    f"trains there any more, delete {self.runs / kind.mark}"
                )
        if (mount := mount_of(self.runs)) and keeps_objects(mount):
            raise ConfigError(
                f"outputs={self.runs.parent}: is on {mount.point}, a bucket of objects ({mount.kind}), where no folder can be "
                "renamed at once; choose a folder elsewhere, and copy it there once it is complete"
            )

    def claim(self, config: Config) -> bool:
        """Take the right to train and write a run; False while another process has it. It is ours, still, if we have it."""
        return self.claims.take(run_name(config))

    def release(self, config: Config) -> None:
        """Give a claim back."""
        self.claims.give_back(run_name(config))

    def path(self, config: Config) -> Path:
        return self.runs / config.experiment / run_id(config)

    def summary(self, config: Config) -> dict[str, Any] | None:
        """The summary of a finished or diverged run, with its status; None where there is none yet.

        Raises DamagedRun where the directory exists but a file is missing or differs from its recorded checksum,
        packs.Unreadable where a pack cannot be opened.
        """
        path = self.path(config)
        try:
            if (files := packs.find(path)) is None:
                return None
            meta = json.loads(files.read(META))
            if meta["run_id"] != path.name:
                raise DamagedRun(f"{path}: holds run {meta['run_id']}")
            if meta["status"] in (FAILED, INTERRUPTED):
                return None
            if meta["status"] not in DONE:
                raise DamagedRun(f"{path}: unknown status {meta['status']!r}")
            contents = read_verified(files, meta, (*FILES, LAYERS) if config.log.layers else FILES)
            if WEIGHTS in meta["sha256"] and not files.has(WEIGHTS):  # large: runner.export reads it
                raise DamagedRun(f"{path}: {WEIGHTS} is missing")
            return {"status": meta["status"], **json.loads(contents[SUMMARY])}
        except packs.Unreadable:  # which is no reason to train all that it holds
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedRun(f"{path}: {type(error).__name__}: {error}") from error

    def outcome(self, config: Config) -> Outcome | None:
        """How a run ended that is stored as finished, diverged or failed; None where it is not, or cannot be trusted."""
        try:
            return read_outcome(self.path(config))
        except (DamagedRun, OSError, ValueError, KeyError, TypeError):
            return None

    def discard(self, config: Config) -> None:
        """Remove what an earlier attempt left without a result. The caller has claimed the run."""
        if not self.holds(config):
            shutil.rmtree(self.path(config), ignore_errors=True)

    def holds(self, config: Config) -> bool:
        """Whether there is a result of the run that can be trusted."""
        try:
            return self.summary(config) is not None
        except (DamagedRun, packs.Unreadable):
            return False

    def columns(self, config: Config) -> set[str]:
        """The columns of a finished or diverged run's steps."""
        return set(pq.read_schema(io.BytesIO(packs.files(self.path(config)).read(STEPS))).names)

    def has_files(self, config: Config) -> bool:
        """Whether all files are there that a finished or diverged run has, whatever they hold; also where it cannot be told."""
        try:
            return all(map(packs.files(self.path(config)).has, FILES))
        except OSError as error:
            return not isinstance(error, packs.Damaged) or isinstance(error, packs.Unreadable)

    def write(self, config: Config, outcome: Outcome, context: dict[str, Any]) -> Path:
        """Write a run's directory, replacing what was there; `context` joins meta.json. Returns the directory.

        The caller has claimed the run. A result is replaced by a result alone: one that could not be had again stays.
        Raises ConfigError where the folder cannot be written (a full disk, say); what was there before then stays.
        """
        path = self.path(config)
        if outcome.status not in DONE and (self.holds(config) or packs.hides(path)):
            return path
        new = path.with_name(f".{path.name}-new")
        try:
            shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
            new.mkdir(parents=True)
            for name, contents in contents_of(config, outcome, {"run_id": path.name, **context}).items():
                (new / name).write_bytes(contents)
            if path.is_symlink() or path.is_file():  # not ours
                path.unlink()
            elif path.exists():  # without a result, or damaged
                shutil.rmtree(path)
            new.rename(path)
        except OSError as error:
            raise ConfigError(
                f"outputs={self.runs.parent}: cannot write {path} ({error.strerror or error}); "
                "what is stored already is safe, and once this is mended the same command trains the rest"
            ) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return path


def run_name(config: Config) -> str:
    """A run's, among all of a store."""
    return f"{config.experiment}/{run_id(config)}"


def claims_there(root: Path) -> str:
    """How runs are claimed in these outputs."""
    return next((name for name, kind in CLAIMS.items() if (root / "runs" / kind.mark).exists()), "lock")

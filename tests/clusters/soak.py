"""`make soak`: random kills of sweeps on every executor, on disks that are tiny or slow, under clocks that jump.

After a few kills each sweep is left to end by itself; then its store must be the one that an undisturbed process leaves, bit for
bit. Prints each round with what was done to it; exits with 1 at the first that is not right, whose folder it leaves.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from conftest import ALONE, COMMAND, ROOT, SWEEP, same, stored
from hosts import EXPORT, free_port
from slurm import Slurm, until

EXECUTORS = {
    "in its own process": ["workers=1"],
    "workers": ["workers=2"],
    "slurm": ["executor=slurm", "executor.memory=1.5"],
    "ray": ["executor=ray", "executor.memory=1.5"],
}
SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 1, signal.SIGINT: 1}
MARK = "SOAK_ROUND"  # in the environment of all processes of a round
PATIENCE = 300.0  # seconds within which a sweep that is left alone has to end
TINY = 300  # KiB of a disk that is too small for the sweep; LARGE is enough
LARGE = 100_000
SLOW = """
volume remote
  type protocol/client
  option transport-type tcp
  option remote-host 127.0.0.1
  option remote-port {port}
  option remote-subvolume locks
end-volume
volume slow
  type debug/delay-gen
  option delay-percentage 20
  option delay-duration 20000
  subvolumes remote
end-volume
"""
# Of all Python that starts in a round: time as a file has it moved. (libfaketime also breaks what nobody moves: sleeping.)
CLOCK = """
import os, time
real, moved = time.time, os.environ["SOAK_CLOCK"]
def now():
    try:
        return real() + float(open(moved).read() or 0)
    except (OSError, ValueError):
        return real()
time.time, time.time_ns = now, lambda: int(1e9 * now())
"""


@contextmanager
def plain(folder: Path) -> Iterator[None]:
    yield


@contextmanager
def tiny(folder: Path) -> Iterator[None]:
    """It has room for a part of the sweep, until `grow` gives it more."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TINY}k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def grow(folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={LARGE}k", folder], check=True)


@contextmanager
def slow(folder: Path) -> Iterator[None]:
    """GlusterFS, a fifth of whose answers take 20 ms longer."""
    (served := folder.with_name(f"{folder.name}-served")).mkdir()
    export, volume = folder.with_suffix(".export"), folder.with_suffix(".import")
    port = free_port()
    export.write_text(EXPORT.format(folder=served, port=port))
    volume.write_text(SLOW.format(port=port))
    with subprocess.Popen(["glusterfsd", "-N", "-f", export, "-l", "/dev/null"], stdout=subprocess.DEVNULL) as server:
        try:
            subprocess.run(["glusterfs", "-f", volume, "-l", "/dev/null", folder], check=True)
            until(lambda: os.path.ismount(folder), "the slow disk is there", 20)
            yield
        finally:
            subprocess.run(["umount", "-l", folder])
            server.terminate()


DISKS = {"plain": plain, "tiny": tiny, "slow": slow}


class Round:
    """One sweep, in a folder of its own. `did`: what was done to it."""

    def __init__(self, rng: random.Random, executor: str, disk: str, claims: str, jumps: bool, folder: Path):
        self.tiny = disk == "tiny"
        self.rng, self.folder, self.jumps = rng, folder, jumps
        self.arguments = [*EXECUTORS[executor], f"store.claims={claims}", f"outputs={folder}", f"bases={folder}-bases"]
        self.name = f"{executor}, {disk} disk, {claims}{', a clock that jumps' * self.jumps}"
        self.environment = ALONE | {MARK: folder.name}
        self.clock = folder.with_suffix(".clock")
        if self.jumps:
            self.clock.write_text("0")
            (site := folder.with_suffix(".site")).mkdir()
            (site / "sitecustomize.py").write_text(CLOCK)
            self.environment |= {"PYTHONPATH": str(site), "SOAK_CLOCK": str(self.clock)}
        self.did: Counter[str] = Counter()
        self.command: subprocess.Popen | None = None

    def begin(self) -> None:
        self.log = self.folder.with_suffix(".log").open("w+")
        self.command = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *SWEEP, *self.arguments],
            env=self.environment | {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )

    def disturb(self) -> bool:
        """Kill one of its processes, wherever it is; whether there was one."""
        if self.jumps:
            self.clock.write_text(f"{self.rng.uniform(-1e6, 1e6)}")
            self.did["jumps of the clock"] += 1
        if not (found := self.processes()):
            return False
        victim = self.rng.choice(found)
        [which] = self.rng.choices(list(SIGNALS), SIGNALS.values())
        with suppress(psutil.Error):
            self.did[f"{which.name} of {'the command' if victim.pid == self.command.pid else victim.name()}"] += 1
            victim.send_signal(which)
        return True

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.folder.name and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def ends(self) -> None:
        """Undisturbed, and with room. Raises AssertionError where it does not."""
        if self.tiny:
            grow(self.folder)
        for _ in range(3):  # the command that is there may have lost a worker three times, or have had no room
            if self.command is None or self.command.poll() is not None:
                self.begin()
            assert self.command.wait(PATIENCE) in (0, 1, 2, 130, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM), (
                self.said()
            )
            if self.command.returncode == 0:
                break
        assert self.command.returncode == 0, self.said()

    def said(self) -> str:
        self.log.seek(0)
        return f"exit code {self.command.returncode}: {self.log.read()[-3000:]}"

    def stop(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        if self.command:
            self.command.wait()


def soak(minutes: float, kills: int, seed: int) -> Counter[str]:
    """What was done in all. Raises AssertionError, TimeoutError."""
    rng, end, done = random.Random(seed), time.monotonic() + 60 * minutes, Counter()
    root = Path(tempfile.mkdtemp(prefix="soak"))
    print(f"seed {seed}, in {root}", flush=True)
    with ExitStack() as stack:
        executors = list(EXECUTORS)
        if os.geteuid() == 0 and shutil.which("slurmctld"):
            slurm = stack.enter_context(Slurm(root / "slurm"))
        else:
            executors.remove("slurm")
        disks = [disk for disk in DISKS if os.geteuid() == 0 and (disk != "slow" or shutil.which("glusterfsd"))] or [
            "plain"
        ]
        (root / "alone").mkdir()
        undisturbed = Round(rng, "in its own process", "plain", "lock", False, root / "alone")
        undisturbed.ends()
        alone = stored(root / "alone")
        number = 0
        while time.monotonic() < end and done["kills"] < kills:
            executor, number = executors[number % len(executors)], number + 1
            disk, claims = rng.choice(disks), rng.choice(["lock", "lease"])
            (folder := root / f"round{number}").mkdir()
            with DISKS[disk](folder):
                each = Round(rng, executor, disk, claims, rng.random() < 0.3, folder)
                try:
                    each.begin()
                    for _ in range(rng.randint(5, 9)):
                        time.sleep(rng.uniform(0.5, 6))
                        done["kills"] += each.disturb()
                        if each.command.poll() is not None and rng.random() < 0.8:
                            each.begin()
                    each.ends()
                    shutil.rmtree(
                        folder / "runs" / ".leases", ignore_errors=True
                    )  # which may tell of those that were killed
                    assert stored(folder).keys() == alone.keys(), set(stored(folder)) ^ set(alone)
                    same(folder, alone)
                finally:
                    each.stop()
                    if executor == "slurm":
                        slurm.call("scancel", "--user=root")
            done[executor] += 1
            done[f"{disk} disk"] += 1
            print(
                f"{done['kills']:4d} kills; {each.name}: {', '.join(f'{n} {w}' for w, n in each.did.items())}",
                flush=True,
            )
    shutil.rmtree(root)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    try:
        done = soak(options.minutes, options.kills, options.seed)
    except (AssertionError, TimeoutError, subprocess.SubprocessError) as error:
        print(f"not right: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("all stores are right: " + ", ".join(f"{count} {what}" for what, count in done.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A store that two machines share: no run is trained twice at the same time, none lost, none damaged, whatever becomes of one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from conftest import ALONE, ROOT, SWEEP, same, training
from hosts import Hosts
from slurm import until

# Seconds, shorter than in earnest. GlusterFS drops the locks of a machine after 5, see `hosts`.
SHOWN, UNHEARD, EXPIRES = 0.3, 3.0, 6.0
# What trains tells when it did and when it ended, on a clock that both machines have.
COMMAND = f"""
import json, sys, time
from runner.store import claims, leases
claims.EVERY, claims.UNHEARD, leases.EXPIRES = {SHOWN}, {UNHEARD}, {EXPIRES}
from runner.config.identity import run_id
from runner.sweeps.executors import local
told, train_stack = open(sys.argv.pop(1), "a", buffering=1), local.train_stack

def train(stack, *rest):
    for config in stack:
        print(json.dumps([run_id(config), "begins", time.monotonic()]), file=told)
    try:
        return train_stack(stack, *rest)
    finally:
        for config in stack:
            print(json.dumps([run_id(config), "ends", time.monotonic()]), file=told)

local.train_stack = train
from runner.sweeps.cli import main
main()
"""


def on(*kinds: str) -> pytest.MarkDecorator:
    """For each of these a file system, and how runs are claimed there."""
    return pytest.mark.parametrize("kinds", [kind.split() for kind in kinds], ids=kinds)


@pytest.fixture
def hosts(kinds, tmp_path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("glusterfsd", "sshfs", "ip"))):
        pytest.skip("machines take root and the packages glusterfs-server, sshfs, openssh-sftp-server and iproute2")
    with Hosts(tmp_path, kinds[0]) as hosts:
        yield hosts


class Machine:
    """The sweep, as a command on a machine."""

    def __init__(self, hosts: Hosts, name: str, claims: str):
        self.hosts, self.name, self.claims = hosts, name, claims
        self.told = hosts.folder / f"{name}.txt"
        self.begin()

    def begin(self) -> None:
        arguments = [*SWEEP, f"outputs={self.hosts.shared}", f"bases={self.hosts.folder}/bases", "workers=1"]
        self.command = subprocess.Popen(
            [
                *self.hosts.on(self.name),
                sys.executable,
                "-c",
                COMMAND,
                self.told,
                *arguments,
                f"store.claims={self.claims}",
            ],
            env=ALONE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        self.hosts.daemons.append(self.command)

    def ends(self, seconds: float = 120) -> tuple[int, str]:
        output, _ = self.command.communicate(timeout=seconds)
        return self.command.returncode, output

    def trains(self) -> bool:
        return self.told.is_file() and bool(self.told.read_text())

    def spans(self, killed: float = float("nan")) -> dict[str, list[tuple[float, float]]]:
        """When each run was trained here; what has no end ended when the machine was `killed`."""
        spans: dict[str, list[list[float]]] = {}
        for line in self.told.read_text().splitlines() if self.told.is_file() else []:
            run, what, when = json.loads(line)
            if what == "begins":
                spans.setdefault(run, []).append([when, killed])
            else:
                spans[run][-1][1] = when
        return {run: [(begin, end) for begin, end in each] for run, each in spans.items()}


def never_at_the_same_time(*machines: dict[str, list[tuple[float, float]]]) -> None:
    for run in set().union(*machines):
        spans = sorted(span for machine in machines for span in machine.get(run, []))
        for (_, end), (begin, _) in pairwise(spans):
            assert end <= begin, f"{run} was trained twice at the same time"


def stored_alone(hosts: Hosts, alone: dict[str, bytes]) -> None:
    """What is stored, on the machine whose folder it is, and no claim of anybody."""
    leases = hosts.exported / "runs" / ".leases"
    if leases.is_dir():  # of a machine that was killed, one may stay that says that it is alive
        assert not [path for path in leases.iterdir() if path.suffix != ".alive"]
        shutil.rmtree(leases)
    same(hosts.exported, alone)


@on("gluster lock")
def test_two_machines_share_a_sweep(hosts, kinds, alone):
    machines = [Machine(hosts, name, kinds[1]) for name in hosts.names]
    for machine in machines:
        code, output = machine.ends()
        assert code == 0, output
    first, second = (machine.spans() for machine in machines)
    assert first and second  # both trained
    assert not set(first) & set(second) and len(first) + len(second) == 18  # each run once
    stored_alone(hosts, alone)


@on("gluster lock", "sshfs lease")
def test_what_a_machine_without_power_leaves_another_trains(hosts, kinds, alone):
    first = Machine(hosts, "lid1", kinds[1])
    training(hosts.exported)
    second = Machine(hosts, "lid2", kinds[1])
    until(second.trains, "the second machine trains", 60)
    hosts.kill("lid1")
    killed = time.monotonic()
    first.ends(20)
    code, output = second.ends()
    assert code == 0, output
    assert set(first.spans()) & set(second.spans())  # some run was lost with the machine
    never_at_the_same_time(first.spans(killed), second.spans())
    stored_alone(hosts, alone)


@on("gluster lock", "gluster lease")
def test_a_machine_that_is_parted_gives_up_before_another_takes_over(hosts, kinds, alone):
    """Its training ends by itself, though it cannot know what the others do; later the same command goes on."""
    first = Machine(hosts, "lid1", kinds[1])
    training(hosts.exported)
    second = Machine(hosts, "lid2", kinds[1])
    until(second.trains, "the second machine trains", 60)
    hosts.part("lid1")
    code, output = second.ends()
    assert code == 0, output
    hosts.connect("lid1")
    code, output = first.ends()
    assert code == 130 and f"did not answer for {UNHEARD:g} seconds" in output, output
    assert set(first.spans()) & set(second.spans())
    never_at_the_same_time(first.spans(), second.spans())
    first.begin()
    code, output = first.ends()
    assert code == 0 and "18 skipped" in output, output
    stored_alone(hosts, alone)


@on("gluster lease")
def test_a_command_that_stood_still_does_not_write_what_another_has_taken(hosts, kinds, alone):
    """Nor does one whose machine slept, or that was stopped, and has had no time yet to notice."""
    first = Machine(hosts, "lid1", kinds[1])
    training(hosts.exported)
    subprocess.run([*hosts.on("lid1"), "pkill", "-STOP", "python"], check=True)
    second = Machine(hosts, "lid2", kinds[1])
    code, output = second.ends()
    assert code == 0, output
    first.command.send_signal(signal.SIGCONT)  # to nsenter, which had stopped with it, and passes it on
    code, output = first.ends()
    assert code == 130, output
    stored_alone(hosts, alone)


@on("sshfs lease")
def test_locks_are_refused_where_they_would_be_of_one_machine_alone(hosts, kinds, alone):
    machine = Machine(hosts, "lid1", "lock")
    code, output = machine.ends()
    assert code == 2 and "fuse.sshfs" in output and "store.claims=lease" in output, output
    assert "Traceback" not in output

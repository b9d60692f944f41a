"""A Slurm cluster of two nodes on this machine: real daemons with munge, without accounting. For root on a Debian machine."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil

NODES = {"node1": 17011, "node2": 17012}  # and their ports
CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort=17010
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=15
KillWait=5
SchedulerParameters=sched_interval=2,batch_sched_delay=1,sched_min_interval=100000
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A context that starts the daemons; `environment` names the cluster for those who are to use it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Slurm":
        os.environ |= self.environment
        (self.folder / "state").mkdir(parents=True)
        memory = psutil.virtual_memory().total // 2**20
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory={memory // 3} State=UNKNOWN"
            for name, port in NODES.items()
        )
        (self.folder / "slurm.conf").write_text(CONF.format(host=host, folder=self.folder, nodes=nodes))
        start_munge()
        self.start("slurmctld", "slurmctld", "-D")
        for name in NODES:
            self.start(name, "slurmd", "-D", "-N", name)
        until(lambda: sinfo() == dict.fromkeys(NODES, "idle"), "both nodes are idle", 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.call("scancel", "--user=root")
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            daemon.wait(30)

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("w") as output:
            self.daemons[name] = subprocess.Popen(command, stdout=output, stderr=output)

    @staticmethod
    def call(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def sinfo() -> dict[str, str]:
    """State of each node."""
    answer = subprocess.run(["sinfo", "-h", "-N", "-o", "%N|%T"], capture_output=True, text=True).stdout
    return dict(line.split("|") for line in answer.split())


def start_munge() -> None:
    """Which vouches for who sends a message; with the key that its package made."""
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(folder).mkdir(exist_ok=True, parents=True)
        shutil.chown(folder, "munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged"], check=True)
    until(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0, "munge answers", 20)


def until(holds, what: str, seconds: float) -> None:
    """Wait until it holds. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{seconds} s and not yet: {what}")
        time.sleep(0.2)

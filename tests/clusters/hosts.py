"""Machines that share a folder, as namespaces of this one: each has a network, mounts and processes of its own. As root.

The folder comes from GlusterFS, which passes locks from machine to machine, or from sshfs, which does not.
"""

import socket
import subprocess
from pathlib import Path

from slurm import until

SERVER = "10.77.0.254"
EXPORT = """
volume posix
  type storage/posix
  option directory {folder}
end-volume
volume locks
  type features/locks
  subvolumes posix
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.listen-port {port}
  option transport.socket.keepalive-time 1
  option transport.socket.keepalive-interval 1
  option transport.socket.keepalive-count 4
  option transport.tcp-user-timeout 5
  option auth.addr.locks.allow *
  subvolumes locks
end-volume
"""
IMPORT = """
volume client
  type protocol/client
  option transport-type tcp
  option remote-host {server}
  option remote-port {port}
  option remote-subvolume locks
  option ping-timeout 5
end-volume
"""


class Hosts:
    """A context: `names`, machines that all see what this one has in `exported` under `shared`."""

    def __init__(self, folder: Path, kind: str, names: tuple[str, ...] = ("lid1", "lid2")):
        self.folder, self.kind, self.names = folder, kind, names
        self.exported, self.shared = folder / "exported", folder / "shared"
        self.port = free_port()
        self.daemons: list[subprocess.Popen] = []
        self.first: dict[str, int] = {}  # process of each machine, with which all others there end

    def __enter__(self) -> "Hosts":
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        for path in (self.exported, self.shared):
            path.mkdir()
        self._unplug()
        run("ip", "link", "add", "lid0", "type", "bridge")
        run("ip", "addr", "add", f"{SERVER}/24", "dev", "lid0")
        run("ip", "link", "set", "lid0", "up")
        if self.kind == "gluster":
            export = self.folder / "export.vol"
            export.write_text(EXPORT.format(folder=self.exported, port=self.port))
            self._start("glusterfsd", "-N", "-f", str(export), "-l", str(self.folder / "server.log"))
        for number, name in enumerate(self.names, 1):
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", f"{name}v", "master", "lid0", "up")
            run("ip", "-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                run("ip", "-n", name, "link", "set", device, "up")
            self.boot(name)

    def __exit__(self, *_: object) -> None:
        for name in self.first:
            self.connect(name)
            self.kill(name)
        for daemon in self.daemons:
            daemon.kill()
            daemon.wait()
        self._unplug()

    def _unplug(self) -> None:
        """Also what tests that were killed left."""
        for name in self.names:
            subprocess.run(["ip", "link", "del", f"{name}v"], stderr=subprocess.DEVNULL)
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "del", "lid0"], stderr=subprocess.DEVNULL)

    def boot(self, name: str) -> None:
        """Start a machine, and mount what it shares."""
        unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"]
        outer = self._start("ip", "netns", "exec", name, *unshared)
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        until(lambda: children.read_text().split(), f"{name} starts", 10)
        self.first[name] = int(children.read_text().split()[0])
        until(lambda: Path(f"/proc/{self.first[name]}/comm").read_text() == "sleep\n", f"{name} has started", 10)
        if self.kind == "gluster":
            volume = self.folder / "import.vol"
            volume.write_text(IMPORT.format(server=SERVER, port=self.port))
            log = self.folder / f"{name}-{self.first[name]}.log"
            mount = ["glusterfs", "-f", str(volume), "-l", str(log), "--entry-timeout=0", "--attribute-timeout=0"]
            run(*self.on(name), *mount, str(self.shared))
        else:
            server = self.folder / "server.sh"
            server.write_text("#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n")
            server.chmod(0o755)
            options = f"ssh_command={server},dcache_timeout=1"
            run(*self.on(name), "sshfs", "-o", options, f"host:{self.exported}", str(self.shared))
        until(lambda: self.sees(name), f"{name} sees the folder", 10)

    def sees(self, name: str) -> bool:
        return subprocess.run([*self.on(name), "mountpoint", "-q", str(self.shared)]).returncode == 0

    def on(self, name: str) -> list[str]:
        """What a command begins with that runs there."""
        return ["nsenter", "--target", str(self.first[name]), "--mount", "--net", "--pid"]

    def kill(self, name: str) -> None:
        """As without power: all of its processes, and what mounts its folder, at once."""
        subprocess.run(["kill", "-9", str(self.first[name])], stderr=subprocess.DEVNULL)

    def part(self, name: str) -> None:
        """Pull its cable."""
        run("ip", "link", "set", f"{name}v", "down")

    def connect(self, name: str) -> None:
        run("ip", "link", "set", f"{name}v", "up")

    def _start(self, *command: str) -> subprocess.Popen:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.daemons.append(daemon)
        return daemon


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

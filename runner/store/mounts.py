"""The file system that a folder is on, as far as claims depend on it: whether machines that share it see each other's locks."""

import re
from pathlib import Path
from typing import NamedTuple

TABLE = Path("/proc/self/mountinfo")  # of Linux; elsewhere nothing is known of a file system
# Shared by machines, so that the network may part a process from what it has claimed.
NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse",
    "gfs2",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "virtiofs",
}
# Programs that mount buckets of objects, in which a folder is not renamed at once, nor a file created by one alone.
OBJECTS = re.compile(r"s3fs|mountpoint-s3|goofys|gcsfuse|blobfuse2?|rclone")


class Mount(NamedTuple):
    point: str
    kind: str
    options: frozenset[str]
    source: str

    @property
    def shared(self) -> bool:
        """Whether other machines may see it, too."""
        return self.kind.partition(".")[0] in NETWORK


def mount_of(folder: Path) -> Mount | None:
    """The mount that a folder is on; None where the system does not say. Source: proc(5)."""
    try:
        lines = TABLE.read_text(errors="replace").splitlines()
    except OSError:
        return None
    path, best = folder.resolve(), None
    for line in lines:
        own, _, of_kind = line.partition(" - ")
        fields, (kind, source, *super_options) = own.split(" "), of_kind.split(" ")
        point = _plain(fields[4])
        if path.is_relative_to(point) and (
            best is None or len(point) >= len(best.point)
        ):  # later ones hide earlier ones
            options = [*fields[5].split(","), *",".join(super_options).split(",")]
            best = Mount(point, kind, frozenset(options), _plain(source))
    return best


def keeps_objects(mount: Mount) -> bool:
    """Whether a bucket is mounted there, on which no store can be kept."""
    name = mount.kind.partition(".")[2] or mount.source
    return mount.kind.startswith("fuse") and OBJECTS.fullmatch(name) is not None


def local_locks(mount: Mount) -> str | None:
    """Why other machines do not see the locks that a process takes there, in words; None where they do, or nothing is known.

    Sources: nfs(5), mount.lustre(8), mount.cifs(8), beegfs-client.conf, the kernel's documentation of AFS. sshfs knows no locks,
    and for a FUSE file system that knows none the kernel keeps them itself.
    """
    kind, options = mount.kind, mount.options
    if kind in ("nfs", "nfs4"):  # version 4 has locks of its own, and takes no notice of nolock
        told = {"local_lock=all", "local_lock=posix"} | ({"nolock"} if kind == "nfs" else set())
    elif kind in ("cifs", "smb3"):
        told = {"nobrl"}
    else:
        told = {"lustre": {"localflock"}, "afs": {"flock=local", "flock=openafs"}}.get(kind, set())
    if found := sorted(told & options):
        return f"mounted with {found[0]}"
    if kind == "beegfs" and not _of_all_machines(options):
        return "tuneUseGlobalFileLocks is not set"
    return "which has no locks" if kind == "fuse.sshfs" else None


def _of_all_machines(options: frozenset[str]) -> bool:
    """Whether BeeGFS passes locks on, by its file of settings."""
    [file, *_] = [o.partition("=")[2] for o in options if o.startswith("cfgFile=")] or [
        "/etc/beegfs/beegfs-client.conf"
    ]
    try:
        text = Path(file).read_text(errors="replace")
    except OSError:
        return False
    return (
        re.search(r"^\s*tuneUseGlobalFileLocks\s*=\s*(true|1|yes|on)\b", text, re.MULTILINE | re.IGNORECASE) is not None
    )


def _plain(text: str) -> str:
    """Without the escapes that stand for spaces and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)

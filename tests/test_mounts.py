"""On which file systems other machines see locks, and where no store is kept."""

from pathlib import Path

import pytest

from runner.store import mounts

MOUNTS = r"""
20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
21 20 0:30 / /nfs/three rw,relatime - nfs server:/a rw,vers=3,nolock,local_lock=all
22 20 0:31 / /nfs/three\040open rw,relatime - nfs server:/a rw,vers=3,local_lock=none
23 20 0:32 / /nfs/four rw,relatime - nfs4 server:/a rw,vers=4.2,nolock,local_lock=none
24 20 0:33 / /lustre/local rw,relatime - lustre mds:/a rw,localflock
25 20 0:34 / /lustre/all rw,relatime - lustre mds:/a rw,flock
26 20 0:35 / /smb/local rw,relatime - cifs //server/a rw,nobrl
27 20 0:36 / /smb/all rw,relatime - cifs //server/a rw
28 20 0:37 / /sshfs rw,relatime - fuse.sshfs host:/a rw
29 20 0:38 / /beegfs rw,relatime - beegfs beegfs_nodev rw,cfgFile={settings}
30 20 0:39 / /bucket rw,relatime - fuse mountpoint-s3 rw
31 20 0:40 / /rclone rw,relatime - fuse.rclone remote: rw
32 20 0:41 / /gluster rw,relatime - fuse.glusterfs host:/a rw
33 20 0:42 / /afs rw,relatime - afs a rw,flock=openafs
34 20 0:43 / /covered rw,relatime - nfs server:/a rw,vers=3,nolock,local_lock=all
35 34 0:44 / /covered rw,relatime - tmpfs tmpfs rw
"""
LOCAL = {
    "/home": False,
    "/nfs/three": True,
    "/nfs/three/and/deeper": True,
    "/nfs/three open": False,
    "/nfs/three other": False,
    "/nfs/four": False,
    "/lustre/local": True,
    "/lustre/all": False,
    "/smb/local": True,
    "/smb/all": False,
    "/sshfs": True,
    "/beegfs": True,
    "/gluster": False,
    "/afs": True,
    "/covered": False,
}


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    settings, path = tmp_path / "beegfs.conf", tmp_path / "mountinfo"
    settings.write_text("tuneUseGlobalFileLocks = false\n")
    path.write_text(MOUNTS.strip().format(settings=settings))
    monkeypatch.setattr(mounts, "TABLE", path)
    return settings


@pytest.mark.parametrize("folder", LOCAL)
def test_it_is_known_where_locks_are_of_one_machine_alone(table, folder):
    assert (mounts.local_locks(mounts.mount_of(Path(folder))) is not None) == LOCAL[folder]


def test_beegfs_says_in_its_settings_that_it_passes_locks_on(table):
    mount = mounts.mount_of(Path("/beegfs"))
    table.write_text("# tuneUseGlobalFileLocks = false\ntuneUseGlobalFileLocks=true\n")
    assert mounts.local_locks(mount) is None
    table.unlink()
    assert mounts.local_locks(mount)


def test_shared_and_own_file_systems_are_told_apart(table):
    assert mounts.mount_of(Path("/nfs/four")).shared and mounts.mount_of(Path("/gluster")).shared
    assert not mounts.mount_of(Path("/home")).shared and not mounts.mount_of(Path("/covered")).shared
    assert [mounts.keeps_objects(mounts.mount_of(Path(p))) for p in ("/bucket", "/rclone", "/gluster", "/home")] == [
        1,
        1,
        0,
        0,
    ]
    mounts.TABLE.unlink()
    assert mounts.mount_of(Path("/home")) is None  # and nothing is refused


@pytest.mark.parametrize(
    ("mount", "claims", "told"),
    [
        ("fuse.sshfs host:/a rw", "lock", "store.claims=lease"),
        ("nfs server:/a rw,local_lock=posix", "lock", "mounted with local_lock=posix"),
        ("fuse.s3fs s3fs rw", "lock", "bucket of objects"),
        ("fuse.s3fs s3fs rw", "lease", "bucket of objects"),
    ],
)
def test_a_store_is_refused_where_it_would_not_be_one(table, cli, tmp_path, mount, claims, told):
    mounts.TABLE.write_text(f"1 0 0:1 / {tmp_path} rw - {mount}\n")
    code, _, err = cli("steps=1", f"store.claims={claims}")
    assert code == 2 and told in err and "Traceback" not in err and str(tmp_path) in err

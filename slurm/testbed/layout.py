"""Where everything of a test bed lies, and who may touch it."""

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

USER = "skydeck-test"
"""Jobs, and whoever submits them, run as this ordinary user."""

CPU_NODES = ("cpu1", "cpu2")
GPU_NODES = ("gpu1", "gpu2")
NODES = CPU_NODES + GPU_NODES
GPUS_A_NODE = 4

_NVIDIA_MAJOR = 195


class TestBedError(Exception):
    """What is wrong, and how to mend it."""

    __test__ = False


@dataclass(frozen=True)
class Layout:
    dir: Path

    @property
    def slurm_conf(self) -> Path:
        return self.dir / "etc/slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.dir / "run/munge/munge.socket.2"

    @property
    def db_socket(self) -> Path:
        return self.dir / "run/db/db.sock"

    @property
    def home(self) -> Path:
        """Of the test user."""
        return self.dir / "home"

    def identity(self, name: str) -> Path:
        """Which process the daemon called so is."""
        return self.dir / "run" / f"{name}.json"


def default_dir() -> Path:
    """Short: sockets lie below it, and their paths end at 107 bytes."""
    if os.geteuid() == 0:
        return Path("/var/tmp/skydeck-testbed")  # noqa: S108 - checked by check_dir
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "skydeck/testbed"


def check_dir(directory: Path) -> None:
    """munged accepts only parents that belong to root; other daemons must be able to pass."""
    if len(str(directory)) > 70:
        raise TestBedError(f"{directory} is too long for sockets below it; give a shorter --dir")
    for parent in directory.parents:
        if parent.exists() and not parent.stat().st_mode & 0o001:
            raise TestBedError(f"{parent} is closed to other users; give --dir somewhere open")
    if directory.exists() and directory.stat().st_uid != 0:
        raise TestBedError(f"{directory} does not belong to root; give another --dir")


def make_directories(layout: Layout) -> None:
    """A wrong owner or mode here breaks the start of some daemon."""
    for name, owner, mode in (
        (".", "root", 0o755),
        ("etc", "root", 0o755),
        ("run", "root", 0o755),
        ("state", "root", 0o755),
        ("log", "root", 0o755),
        ("etc/munge", "munge", 0o700),
        ("state/munge", "munge", 0o700),
        ("run/munge", "munge", 0o755),
        ("log/munge", "munge", 0o700),
        ("run/slurm", "slurm", 0o755),
        ("state/ctld", "slurm", 0o755),
        ("log/slurm", "slurm", 0o755),
        ("state/db", "mysql", 0o700),
        ("run/db", "mysql", 0o755),
        ("state/dev", "root", 0o755),
        ("state/spool", "root", 0o755),
        *((f"state/spool/{node}", "root", 0o755) for node in NODES),
        ("home", USER, 0o700),
    ):
        path = layout.dir / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        shutil.chown(path, owner, owner)


def make_devices(layout: Layout) -> None:
    """GPUs without a driver: opening one fails with ENXIO when allowed, with EPERM when not."""
    numbers = {"fuse": (10, 229), "tun": (10, 200)}
    for n, node in enumerate(GPU_NODES):
        for i in range(GPUS_A_NODE):
            numbers[f"{node}-nvidia{i}"] = (_NVIDIA_MAJOR, n * GPUS_A_NODE + i)
    for name, (major, minor) in numbers.items():
        path = layout.dir / "state/dev" / name
        if not path.exists():
            os.mknod(path, 0o020666, os.makedev(major, minor))
            path.chmod(0o666)


def short_host_name() -> str:
    return socket.gethostname().partition(".")[0]

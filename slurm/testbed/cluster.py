"""Up, down, wipe: a test bed as a whole."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm.testbed import daemons, namespace, packages, processes
from slurm.testbed.config import write_configuration
from slurm.testbed.expose import expose
from slurm.testbed.layout import (
    NODES,
    USER,
    Layout,
    TestBedError,
    check_dir,
    make_devices,
    make_directories,
)

_EMPTY_QUEUE_S = 10.0
_CONTROLLERS = ("memory", "freezer", "devices", "cpuset", "cpuacct", "cpu")


def up(
    layout: Layout,
    min_job_age_s: int = 300,
    read_only: Iterable[Path] = (),
    writable: Iterable[Path] = (),
) -> list[Path]:
    """Bring everything up; harmless if it is. Returns the folders that had to be exposed."""
    packages.install_packages()
    if os.geteuid() != 0:
        raise TestBedError("a test bed needs root: it has several users and a mount namespace")
    check_dir(layout.dir)
    packages.ensure_user(layout)
    if not running(layout):
        make_directories(layout)
        make_devices(layout)
        write_configuration(layout, min_job_age_s)
    namespace.open_namespace(layout)
    exposed = expose_more(layout, read_only, writable)
    _start_all(layout)
    return exposed


def expose_more(layout: Layout, read_only: Iterable[Path], writable: Iterable[Path]) -> list[Path]:
    pid = namespace.require(layout).pid
    return expose(pid, read_only) + expose(pid, writable, writable=True)


def down(layout: Layout) -> None:
    """Jobs first, so that no daemon leaves one behind. Harmless if nothing runs."""
    names = [daemon.name for daemon in daemons.all_daemons(layout)]
    if processes.find(layout, "slurmctld") and processes.find(layout, "munged"):
        _empty_queue(layout)
    processes.stop(layout, [name for name in names if name.startswith("slurmd-")])
    for name in ("slurmctld", "slurmdbd", "mariadbd", "munged", namespace.HOLDER):
        processes.stop(layout, [name])
    _remove_cgroups()


@contextmanager
def borrowed(layout: Layout) -> Iterator[None]:
    """Up for the time being; down again only if it was down before."""
    before = running(layout)
    up(layout)
    try:
        yield
    finally:
        if not before:
            down(layout)


def wipe(layout: Layout) -> None:
    """As if it had never been, but for the packages."""
    down(layout)
    if (layout.dir / "etc/slurm.conf").exists():
        shutil.rmtree(layout.dir)
    packages.remove_user()


def running(layout: Layout) -> list[str]:
    names = [daemon.name for daemon in daemons.all_daemons(layout)]
    return [name for name in [*names, namespace.HOLDER] if processes.find(layout, name)]


def _start_all(layout: Layout) -> None:
    munged, mariadbd, slurmdbd, slurmctld, *slurmds = daemons.all_daemons(layout)
    for group in ([munged, mariadbd], [slurmdbd], [slurmctld, *slurmds]):
        for daemon in group:
            daemons.begin(layout, daemon)
        for daemon in group:
            daemons.finish(layout, daemon)


def _empty_queue(layout: Layout) -> None:
    for user in (USER, "root"):
        daemons.command(layout, "scancel", f"--user={user}")
    end = time.monotonic() + _EMPTY_QUEUE_S
    while time.monotonic() < end:
        queue = daemons.command(layout, "squeue", "-h", "-o", "%A")
        if queue.returncode != 0 or not queue.stdout.strip():
            return
        time.sleep(0.1)


def _remove_cgroups() -> None:
    for controller in _CONTROLLERS:
        for node in NODES:
            root = Path("/sys/fs/cgroup", controller, f"slurm_{node}")
            folders = [folder for folder, _, _ in os.walk(root, topdown=False)]
            for folder in folders:
                try:
                    os.rmdir(folder)
                except OSError:
                    continue  # still busy: the next "down" finds it

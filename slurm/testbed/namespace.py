"""The mount namespace in which all daemons and jobs of a test bed live.

Where the kernel mounts cgroup v1 and v2 side by side, crun refuses to start containers; in here
the v2 tree is unmounted. /dev/fuse and /dev/net/tun are open to ordinary users, as rootless
podman needs. The host sees nothing of it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm.local_process import ProcessId
from slurm.testbed import processes
from slurm.testbed.layout import USER, Layout, TestBedError

HOLDER = "holder"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

_ENTER = r"""
set -eu
mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified
mount --make-rshared /
mkdir -p /dev/net
for pair in fuse:/dev/fuse tun:/dev/net/tun; do
  [ -e "${pair#*:}" ] || touch "${pair#*:}"
  mount --bind "$1/${pair%%:*}" "${pair#*:}"
done
touch "$2"
exec sleep infinity
"""


def open_namespace(layout: Layout) -> ProcessId:
    """The process that keeps the namespace; started if there is none."""
    holder = processes.find(layout, HOLDER)
    if holder is not None:
        return holder
    ready = layout.dir / "run/namespace-ready"
    ready.unlink(missing_ok=True)
    argv = ["unshare", "--mount", "--propagation", "private", "bash", "-c", _ENTER, "bash"]
    argv += [str(layout.dir / "state/dev"), str(ready)]
    processes.launch(layout, HOLDER, argv, {"PATH": PATH})
    processes.wait_for(layout, HOLDER, ready.exists, 10)
    return require(layout)


def require(layout: Layout) -> ProcessId:
    holder = processes.find(layout, HOLDER)
    if holder is None:
        raise TestBedError(f"no test bed runs in {layout.dir}; start it: slurm.testbed up")
    return holder


def enter(holder: ProcessId, argv: Sequence[str]) -> list[str]:
    return ["nsenter", f"--target={holder.pid}", "--mount", "--", *argv]


def as_user(
    layout: Layout, argv: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] = {}
) -> list[str]:
    """A command that runs ``argv`` inside, as the test user, with its own small environment."""
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--reset-env"]
    variables = {"PATH": PATH, "LANG": "C.UTF-8", "SLURM_CONF": str(layout.slurm_conf), **env}
    assignments = [f"{name}={value}" for name, value in variables.items()]
    folder = str(cwd or layout.home)
    return enter(require(layout), [*drop, "env", f"--chdir={folder}", *assignments, *argv])


def visible_cwd() -> Path | None:
    """Where the caller stands, if the test user may stand there too."""
    here = Path.cwd()
    open_to_all = all(os.stat(p).st_mode & 0o001 for p in (here, *here.parents))
    return here if open_to_all else None

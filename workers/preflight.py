"""Can this node keep sandboxes? Named checks, each with the mend, before any work is begun."""

import os
import pwd
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

UNIFIED = Path("/sys/fs/cgroup/unified")
MIN_FREE_BYTES = 1 << 30
NATIVE_OVERLAY_ROOTLESS = (5, 13)


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    detail: str = ""
    mend: str = ""

    def text(self) -> str:
        return f"{self.name}: {self.detail}" + (f" Mend: {self.mend}" if self.mend else "")


@dataclass(frozen=True)
class Node:
    """What the checks look at; given by hand in tests."""

    uid: int
    user: str
    kernel: tuple[int, int]
    which: Callable[[str], str | None]
    subuid: Path = Path("/etc/subuid")
    subgid: Path = Path("/etc/subgid")
    mountinfo: Path = Path("/proc/self/mountinfo")

    @property
    def rootless(self) -> bool:
        return self.uid != 0


def this_node(path: str) -> Node:
    major, minor = os.uname().release.split(".")[:2]
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return Node(
        uid=uid,
        user=user,
        kernel=(int(major), int("".join(c for c in minor if c.isdigit()) or 0)),
        which=lambda program: shutil.which(program, path=path),
    )


def hybrid_cgroups(node: Node) -> bool:
    """crun refuses to start while the unified hierarchy is mounted beside the old ones."""
    points = (line.split()[4] for line in node.mountinfo.read_text().splitlines())
    return str(UNIFIED) in points


def can_limit(node: Node, hierarchies: Path = Path("/sys/fs/cgroup")) -> bool:
    """Whether containers may get control groups of their own: root's, where they can be written."""
    places = (hierarchies / "memory", hierarchies / "cgroup.subtree_control")
    return not node.rootless and any(os.access(place, os.W_OK) for place in places)


def check_runtime(node: Node, temporary: Path, archives: Iterable[Path]) -> tuple[Check, ...]:
    checks = [
        _program(node, "podman", "apt-get install podman"),
        _any_program(node, ("crun", "runc"), "apt-get install crun"),
        _program(node, "conmon", "apt-get install conmon"),
        _hybrid(node),
        _temporary(temporary),
        *(_archive(path) for path in archives),
    ]
    if node.rootless:
        checks += [
            _program(node, "newuidmap", "apt-get install uidmap"),
            _subordinate(node, node.subuid, "uids"),
            _subordinate(node, node.subgid, "gids"),
            _kernel(node),
        ]
    return tuple(checks)


def failed(checks: Iterable[Check]) -> tuple[Check, ...]:
    return tuple(check for check in checks if not check.ok)


def _program(node: Node, program: str, mend: str) -> Check:
    return _any_program(node, (program,), mend)


def _any_program(node: Node, programs: tuple[str, ...], mend: str) -> Check:
    found = [path for path in map(node.which, programs) if path]
    names = " or ".join(programs)
    return Check(programs[0], bool(found), found[0] if found else f"{names} is missing", mend)


def _hybrid(node: Node) -> Check:
    if not hybrid_cgroups(node):
        return Check("cgroups", True, "not hybrid")
    if not node.rootless:
        return Check("cgroups", True, "hybrid: podman runs without v2 in its own mount namespace")
    detail = f"{UNIFIED} is mounted beside cgroup v1: containers cannot start"
    mend = (
        f"as root, start the job's daemon (slurmd) in `unshare -m --propagation private` after "
        f"`umount {UNIFIED}`, or boot with systemd.unified_cgroup_hierarchy=1"
    )
    return Check("cgroups", False, detail, mend)


def _subordinate(node: Node, file: Path, what: str) -> Check:
    """One range of 65536 ids lets every id of an image exist in a container."""
    try:
        lines = [line.split(":") for line in file.read_text().splitlines()]
    except OSError:
        lines = []
    mine = [x for x in lines if len(x) == 3 and x[0] in (node.user, str(node.uid))]
    size = max((int(x[2]) for x in mine if x[2].isdigit()), default=0)
    if size >= 65536:
        return Check(file.name, True, f"{size} subordinate {what}")
    return Check(
        file.name,
        False,
        f"user {node.user} has {size} subordinate {what} in {file}, 65536 are needed",
        f"as root: usermod --add-sub{what} 100000-165535 {node.user}",
    )


def _kernel(node: Node) -> Check:
    return Check(
        "kernel",
        node.kernel >= NATIVE_OVERLAY_ROOTLESS,
        f"Linux {node.kernel[0]}.{node.kernel[1]}; overlay mounts of users need 5.13",
        "use nodes with a newer kernel",
    )


def _temporary(folder: Path) -> Check:
    try:
        free = shutil.disk_usage(folder).free
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        return Check("temporary", False, f"{folder}: {error}", "set TMPDIR to a local folder")
    return Check(
        "temporary",
        writable and free >= MIN_FREE_BYTES,
        f"{folder}: {free >> 20} MiB free{'' if writable else ', not writable'}",
        "at least 1 GiB on a local file system is needed; set TMPDIR elsewhere or make room",
    )


def _archive(path: Path) -> Check:
    return Check(
        "image_archive",
        path.is_file() and os.access(path, os.R_OK),
        f"{path} {'is there' if path.is_file() else 'does not exist on this node'}",
        "build it on a file system that all nodes see; see runtime.image_archives",
    )

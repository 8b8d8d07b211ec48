"""Who owns a job's folder on this node, and which folders lost their owner without a clean end."""

import os
from collections.abc import Iterator
from pathlib import Path

OWNER_FILE = "owner"
_START_TIME = 19
"""Index of ``starttime`` in /proc/<pid>/stat, counted after the program's name."""


def mark(root: Path) -> None:
    """This process owns the folder from now on."""
    (root / OWNER_FILE).write_text(_identity(os.getpid()) or "")


def abandoned(temporary: Path, pattern: str) -> Iterator[Path]:
    """Folders of this user's jobs whose owner was killed, so that nobody cleans up after them.

    A number used again is no owner, and a process that we cannot see from here (another pid
    namespace) is taken to be alive.
    """
    for root in temporary.glob(pattern):
        try:
            ours = root.lstat().st_uid == os.getuid() and not root.is_symlink()
            owner = (root / OWNER_FILE).read_text() if ours else ""
        except OSError:
            continue
        if owner and not _owner_lives(owner):
            yield root


def _owner_lives(owner: str) -> bool:
    parts = owner.split("\n")
    if len(parts) != 4 or not parts[0].isdigit():
        return True  # written half: nobody can say
    pid, _, boot, namespace = parts
    mine = (_identity(os.getpid()) or "").split("\n")
    if boot != mine[2]:
        return False  # the node was started anew since
    return namespace != mine[3] or _identity(int(pid)) == owner


def _identity(pid: int) -> str | None:
    """Number, start time, boot and pid namespace: together used once and never again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None  # dead; a container's first process may never take note of it
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.readlink("/proc/self/ns/pid")
    return "\n".join((str(pid), fields[_START_TIME], boot, namespace))

"""The trainer's processes: all of them, and only them.

A trainer starts daemons that leave its process group and even its session. The job therefore
adopts orphans (Linux: child subreaper), so that whatever is left when the trainer has ended is a
descendant of ours and can be ended by its id.
"""

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.1
_KILL_ROUNDS = 50

Wait = Callable[[float], object]


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants' orphans. Inherited by no child."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(pid: int) -> list[int]:
    """Living processes below this one, children first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    level = children.get(pid, [])
    while level:
        found += level
        level = [grandchild for child in level for grandchild in children.get(child, [])]
    return found


def _parent(entry: Path) -> int | None:
    """None for zombies too: they have ended, and only wait to be noticed."""
    try:
        # The command's name may contain anything, also brackets and blanks.
        state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(parent)


def end_descendants() -> None:
    """SIGKILL until nobody is left, for processes whose parent was killed."""
    for _ in range(_KILL_ROUNDS):
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            _send(pid, signal.SIGKILL)
        threading.Event().wait(_POLL_S)


class TrainerProcess:
    """One trainer in its own session, with a thread that follows its output."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        on_line: Callable[[str], None],
        wait: Wait | None = None,
    ) -> None:
        self._wait = wait or threading.Event().wait
        self._process = subprocess.Popen(
            argv,
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None, "stdout is a pipe"
        for line in self._process.stdout:
            on_line(line.decode("utf-8", "replace").rstrip("\n"))

    def stop(self, grace_s: float) -> int:
        """SIGTERM to the group; after the grace SIGKILL. Returns the exit code."""
        self._signal_group(signal.SIGTERM)
        for _ in range(int(grace_s / _POLL_S)):
            if self._process.poll() is not None:
                break
            self._wait(_POLL_S)
        self._signal_group(signal.SIGKILL)
        return self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def clean_up(self, grace_s: float = 5.0) -> int:
        """Ends what the trainer left behind; returns how many had to be killed."""
        for pid in descendants(os.getpid()):
            _send(pid, signal.SIGTERM)
        for _ in range(int(grace_s / _POLL_S)):
            if not descendants(os.getpid()):
                break
            self._wait(_POLL_S)
        left = descendants(os.getpid())
        for pid in left:
            _send(pid, signal.SIGKILL)
        self._reader.join(grace_s)
        return len(left)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return

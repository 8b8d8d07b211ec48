"""Finding and ending processes by what they are, never by a broad name."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Set
from pathlib import Path

CONTAINER_PROGRAMS = frozenset({b"podman", b"conmon", b"crun", b"runc", b"catatonit"})
_WAIT_STEP_S = 0.01


def argv(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent_and_state(pid: int) -> tuple[int, str] | None:
    """None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return int(parent), state


def alive(pid: int) -> bool:
    """False for a zombie too: nothing of it runs, only its parent has not looked yet. The first
    process of a pid namespace becomes one after all the others are gone."""
    found = parent_and_state(pid)
    return found is not None and found[1] not in "ZX"


def using(folder: Path, programs: Set[bytes] = CONTAINER_PROGRAMS) -> frozenset[int]:
    """Container programs with an argument below ``folder``; an editor or shell is not one."""
    needle = os.fsencode(folder)
    found: set[int] = set()
    for pid in _all_pids():
        words = argv(pid).split(b"\0")
        if os.path.basename(words[0]) in programs and any(needle in word for word in words[1:]):
            found.add(pid)
    return frozenset(found)


def descendants(roots: Set[int]) -> frozenset[int]:
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        found = parent_and_state(pid)
        if found is not None:
            children.setdefault(found[0], []).append(pid)
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid not in seen:
            seen.add(pid)
            todo.extend(children.get(pid, ()))
    return frozenset(seen)


async def kill_trees(
    roots: Set[int], spare: Set[int] = frozenset(), deadline_s: float = 10.0
) -> None:
    """SIGKILL to the processes and all below them; returns when they are gone.

    All are stopped first, until no new one appears: a child forked while we looked would lose its
    parent, and with it every sign that it belongs to the tree.
    """
    spared = spare | {os.getpid()}
    victims: frozenset[int] = frozenset()
    while roots and (found := descendants(victims | roots) - spared) != victims:
        _signal(found - victims, signal.SIGSTOP)
        victims = found
    _signal(victims, signal.SIGKILL)
    await wait_dead(victims, deadline_s)


def _signal(pids: Set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


async def wait_dead(pids: Set[int], deadline_s: float) -> bool:
    try:
        async with asyncio.timeout(deadline_s):
            while any(alive(pid) for pid in pids):
                await asyncio.sleep(_WAIT_STEP_S)
    except TimeoutError:
        return False
    return True


def _all_pids() -> tuple[int, ...]:
    return tuple(int(name) for name in os.listdir("/proc") if name.isdigit())

"""Make folders behind closed doors visible inside the test bed, without touching the host.

A checkout below /root (0700) is out of the test user's reach. Inside the test bed's own mount
namespace an empty tmpfs takes the place of the closed ancestor, and only the exposed folders are
attached below it, read-only unless asked otherwise. Files keep owner and mode.
"""

import ctypes
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from slurm.testbed.layout import TestBedError

_MARK = ".skydeck-exposed"
_CLONE_NEWNS = 0x20000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_AT_FDCWD = -100
_AT_RECURSIVE, _AT_EMPTY_PATH = 0x8000, 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 1
_MNT_DETACH = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def expose(namespace_pid: int, paths: Iterable[Path], writable: bool = False) -> list[Path]:
    """Show ``paths`` in the mount namespace of this process. Harmless when repeated.

    Returns what was closed there until now. Raises TestBedError if a path is itself closed.
    """
    wanted = [
        (entry, closed_ancestor(entry))
        for path in with_interpreters(paths)
        for entry in open_entries(path)
    ]
    hidden = [(path, ancestor) for path, ancestor in wanted if ancestor is not None]
    trees = [(_clone_tree(path, writable), path, ancestor) for path, ancestor in hidden]
    try:
        _in_namespace(namespace_pid, lambda: [_attach(*tree) for tree in trees])
    finally:
        for tree, _, _ in trees:
            os.close(tree)
    return [path for path, _ in hidden]


def open_entries(path: Path) -> list[Path]:
    """The path itself; or, of a folder closed to others (as ``mktemp -d`` makes them), what lies
    in it and is open."""
    if not path.is_dir() or path.stat().st_mode & 0o001:
        return [path]
    return [entry for entry in sorted(path.iterdir()) if _readable_by_others(entry)]


def _readable_by_others(path: Path) -> bool:
    mode = path.stat().st_mode
    return bool(mode & 0o004) and (not path.is_dir() or bool(mode & 0o001))


def closed_ancestor(path: Path) -> Path | None:
    """The first folder on the way to ``path`` that others may not pass; None if the way is open."""
    if not _readable_by_others(path):
        raise TestBedError(f"{path} itself is closed to others; chmod -R o+rX {path}")
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & 0o001:
            return parent
    return None


def with_interpreters(paths: Iterable[Path]) -> list[Path]:
    """The paths, resolved, and the Python installations that virtual environments in them need."""
    found: dict[Path, None] = {}
    for path in (path.resolve() for path in paths):
        found[path] = None
        for prefix in _base_prefixes(path):
            found[prefix] = None
    return _without_nested(found)


def _base_prefixes(path: Path) -> Iterator[Path]:
    for config in (path / "pyvenv.cfg", path / ".venv/pyvenv.cfg"):
        if config.is_file():
            for line in config.read_text().splitlines():
                key, _, value = line.partition("=")
                if key.strip() == "home":
                    yield Path(value.strip()).resolve().parent


def _without_nested(paths: Iterable[Path]) -> list[Path]:
    chosen: list[Path] = []
    for path in sorted(paths):
        if not any(path.is_relative_to(above) for above in chosen):
            chosen.append(path)
    return chosen


def _clone_tree(path: Path, writable: bool) -> int:
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    tree = _syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    if not writable:
        attributes = ctypes.create_string_buffer(struct.pack("4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0))
        _syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes, 32)
    return tree


def _attach(tree: int, path: Path, ancestor: Path) -> None:
    if not (ancestor / _MARK).exists():
        _cover(ancestor)
    if path.is_mount():
        if os.path.samestat(path.stat(), os.fstat(tree)):
            return
        # The folder was removed and made anew since it was attached.
        _LIBC.umount2(os.fsencode(path), _MNT_DETACH)
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.stat(tree).st_mode & 0o040000:
        path.mkdir(exist_ok=True)
    else:
        path.touch()
    _syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)


def _cover(ancestor: Path) -> None:
    arguments = (b"tmpfs", os.fsencode(ancestor), b"tmpfs", 0, b"mode=0755,size=1m")
    if _LIBC.mount(*arguments) != 0:
        raise _os_error(f"mount tmpfs on {ancestor}")
    (ancestor / _MARK).touch()


def _in_namespace(pid: int, action: Callable[[], object]) -> None:
    """In a child: a process that changes its mount namespace keeps it for good."""
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.umask(0o022)
            if _LIBC.setns(namespace, _CLONE_NEWNS) != 0:
                raise _os_error("setns")
            action()
            code = 0
        except OSError as error:
            os.write(2, f"expose: {error}\n".encode())
        finally:
            os._exit(code)
    os.close(namespace)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise TestBedError("cannot expose folders inside the test bed; the line above says why")


def _syscall(number: int, *arguments: object) -> int:
    result = _LIBC.syscall(number, *arguments)
    if result < 0:
        raise _os_error(f"system call {number}")
    return int(result)


def _os_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")

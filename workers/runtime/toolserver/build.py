"""Compiles the tool server once per source text and keeps it in the user's cache folder."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("toolserver.c")
FLAGS = ("-static", "-Os", "-s", "-Wall", "-Wextra")
COMPILE_DEADLINE_S = 120.0


class ToolServerBuildError(Exception):
    """The tool server could not be compiled."""


def build(cache: Path, source: Path = SOURCE) -> Path:
    """Returns the binary, compiling it if this source was never compiled into ``cache``.

    Safe when several jobs do it at once: the finished file is renamed into its place.
    """
    digest = hashlib.sha256(source.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]
    binary = cache / f"toolserver-{os.uname().machine}-{digest}"
    if binary.exists():
        return binary
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise ToolServerBuildError(
            "no C compiler for the sandbox tool server; install one: apt-get install gcc libc6-dev"
        )
    _make_writable(cache)
    part = cache / f".{binary.name}.{os.getpid()}"
    try:
        _compile((compiler, *FLAGS, "-o", str(part), str(source)), source)
        part.chmod(0o755)
        part.rename(binary)
    finally:
        part.unlink(missing_ok=True)
    return binary


def _make_writable(cache: Path) -> None:
    mend = (
        "the job's user needs a home folder that this node can write: make it writable, or use"
        " nodes that have it"
    )
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolServerBuildError(f"{cache} cannot be made ({error.strerror}); {mend}") from error
    if not os.access(cache, os.W_OK | os.X_OK):
        raise ToolServerBuildError(f"{cache} cannot be written; {mend}")


def _compile(command: Sequence[str], source: Path) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolServerBuildError(f"compiling {source} failed: {error}") from error
    if done.returncode != 0:
        raise ToolServerBuildError(f"compiling {source} failed:\n{done.stderr[-2000:]}")

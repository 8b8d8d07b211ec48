"""Compiles the tool server once per source text and keeps it in the user's cache folder."""

import hashlib
import os
import shutil
import subprocess
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
    cache.mkdir(parents=True, exist_ok=True)
    part = cache / f".{binary.name}.{os.getpid()}"
    done = subprocess.run(
        [compiler, *FLAGS, "-o", str(part), str(source)],
        capture_output=True,
        text=True,
        timeout=COMPILE_DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        raise ToolServerBuildError(f"compiling {source} failed:\n{done.stderr[-2000:]}")
    part.chmod(0o755)
    part.rename(binary)
    return binary

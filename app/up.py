"""``skydeck up``: web and reconciler as children; the dead one is started again.

The listening socket belongs to this process and is inherited by the web child, so that a web
process that is killed leaves connections waiting instead of refused. Jobs are nobody's children
here: they go on whatever happens to this process.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TextIO

from app.errors import Conflict, Invalid
from app.settings import Settings

BACKOFF_S = (0.2, 1.0, 5.0, 15.0, 30.0)
STABLE_S = 60.0
"""A child that lived this long starts again at once when it dies."""


class AlreadyRunning(Conflict):
    """Another `skydeck up` uses this data folder."""

    code = "already_running"


@contextmanager
def writing(home: Path) -> Iterator[None]:
    """Raises Invalid, with the mend, when something in the data folder cannot be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "free space there, or choose another" if full else "choose another"
        raise Invalid(f"data folder {home}: {error.strerror}; {mend} with --data-dir") from None


def lock_data_folder(home: Path) -> TextIO:
    """The open, locked file; the lock ends with this process, however it ends.

    Raises AlreadyRunning with the other's pid, Invalid when the folder cannot be used.
    """
    with writing(home):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (home / "up.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise AlreadyRunning(
            f"data folder {home} is in use by `skydeck up` with pid {file.read().strip() or '?'}; "
            "stop that one, or give this one a --data-dir of its own"
        ) from None
    with writing(home):
        # Unbuffered: on a full disk a buffer would fail a second time when the file is closed.
        file.truncate(0)
        os.write(file.fileno(), str(os.getpid()).encode())
    return file


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Invalid when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise Invalid(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port "
            "(0 takes a free one)",
            code="port_taken",
        ) from None
    sock.listen(128)
    return sock


def publish_address(settings: Settings, port: int) -> str:
    """Write ``control-plane.json``, from which workers and the command line learn the URL."""
    url = settings.public_url or f"http://{settings.host}:{port}"
    path = settings.control_plane_file
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    temporary.replace(path)
    return url


@dataclass
class Child:
    """One process that is kept alive."""

    name: str
    argv: Sequence[str]
    pass_fds: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    born: float = 0.0
    start_at: float = 0.0

    def start(self, now: float) -> None:
        self.process = subprocess.Popen(
            self.argv, pass_fds=self.pass_fds, env=dict(self.environment), start_new_session=True
        )
        self.born = now

    def check(self, now: float, say: Callable[[str], None]) -> None:
        """Start it if it is due; notice its death and plan the next start."""
        if self.process is None:
            if now >= self.start_at:
                self.start(now)
            return
        code = self.process.poll()
        if code is None:
            return
        self.failures = 0 if now - self.born > STABLE_S else self.failures + 1
        delay = BACKOFF_S[min(self.failures, len(BACKOFF_S) - 1)]
        say(f"{self.name} ended ({code}); starting it again in {delay:g} s")
        self.process, self.start_at = None, now + delay

    def stop(self, grace_s: float = 15.0) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def keep_alive(
    children: Sequence[Child], stop: threading.Event, say: Callable[[str], None]
) -> None:
    """Until ``stop``: look after the children five times a second, then end them in reverse."""
    while not stop.wait(0.2):
        for child in children:
            child.check(monotonic(), say)
    for child in reversed(children):
        child.stop()


def stop_on_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def children(settings: Settings, fd: int, environ: Mapping[str, str]) -> list[Child]:
    env = {**environ, **as_environment(settings)}
    command = [sys.executable, "-m", "app"]
    return [
        Child("web", [*command, "web", "--fd", str(fd)], pass_fds=(fd,), environment=env),
        Child("reconciler", [*command, "reconciler"], environment=env),
    ]


def as_environment(settings: Settings) -> dict[str, str]:
    """Variables that make a child read the same settings."""
    result: dict[str, str] = {}
    for name, value in settings.model_dump().items():
        if value is None:
            continue
        if hasattr(value, "total_seconds"):
            value = value.total_seconds()
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        if text:
            result[f"SKYDECK_{name.upper()}"] = text
    return result

"""A scheduler for machines without Slurm: ``python -m slurm.local_supervisor --dir DIR``.

It keeps a queue and starts one shepherd a job. Control planes come and go; it stays, and exits
when it had nothing to do for a while. If it is killed, shepherds and jobs live on and the next
supervisor adopts them.
"""

import argparse
import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slurm import local_wire
from slurm.local_files import try_lock, write_durably
from slurm.local_process import identify
from slurm.local_queue import LocalQueue, Settings

_PATIENCE_S = 2.0
"""For a client that connects and then says nothing: nobody else is served meanwhile."""

_TICK_S = 0.2
_FORGET_EVERY_S = 300.0


class Server:
    """Answers one client after the other; between them it looks after the jobs."""

    def __init__(self, queue: LocalQueue, listener: socket.socket, idle_exit_s: float) -> None:
        self._queue = queue
        self._listener = listener
        self._idle_exit_s = idle_exit_s
        self._stop = False
        self._forget_at = time.monotonic() + _FORGET_EVERY_S

    def stop(self) -> None:
        self._stop = True

    def serve(self) -> None:
        """Until stopped or idle for long. Jobs go on in either case."""
        last_use = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._stop and time.monotonic() - last_use < self._idle_exit_s:
                if selector.select(_TICK_S):
                    self._serve_one()
                    last_use = time.monotonic()
                self._tick()
                if self._queue.busy():
                    last_use = time.monotonic()

    def _tick(self) -> None:
        try:
            self._queue.tick()
            if time.monotonic() > self._forget_at:
                self._forget_at = time.monotonic() + _FORGET_EVERY_S
                self._queue.forget_old()
        except OSError as error:  # no process, no disk space: jobs keep their place and wait
            _log(f"cannot go on for now: {error}")

    def _serve_one(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            if local_wire.peer_uid(connection) not in {0, os.getuid()}:
                return
            connection.settimeout(_PATIENCE_S)
            try:
                request = local_wire.receive(connection)
                local_wire.send(connection, _reply(self._queue, request))
            except (local_wire.WireError, OSError) as error:
                _log(f"client lost: {error}")


def _reply(queue: LocalQueue, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": answer(queue, request)}
    except (KeyError, TypeError, ValueError) as error:
        return {"error": f"bad request: {error!r}"}


def answer(queue: LocalQueue, request: dict[str, Any]) -> object:
    """Raises KeyError, TypeError or ValueError for a request that is none."""
    match request["call"]:
        case "submit":
            return queue.submit(request)
        case "release":
            return queue.release(int(request["job_id"]))
        case "cancel":
            return queue.cancel(request["name"], [int(i) for i in request["job_ids"]])
        case "snapshot":
            return queue.snapshot(request["prefix"])
        case "history":
            return queue.history(list(request["names"]), float(request["since"]))
        case unknown:
            raise ValueError(f"unknown call {unknown!r}")


def main(argv: list[str]) -> int:
    """Exit code 0 also if another supervisor of this folder runs already."""
    parser = argparse.ArgumentParser(prog="python -m slurm.local_supervisor", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder of this scheduler")
    parser.add_argument("--detach", action="store_true", help="return as soon as it answers")
    parser.add_argument("--cpus", type=int, help="CPUs to share out (default: no limit)")
    parser.add_argument("--grace-s", type=float, default=Settings.grace_s)
    parser.add_argument("--retention-s", type=float, default=Settings.retention_s)
    parser.add_argument("--idle-exit-s", type=float, default=Settings.idle_exit_s)
    options = parser.parse_args(argv)
    settings = Settings(
        directory=options.dir.absolute(),
        cpus=options.cpus,
        grace_s=options.grace_s,
        retention_s=options.retention_s,
        idle_exit_s=options.idle_exit_s,
    )
    _own_directory(settings.directory)
    lock = try_lock(settings.directory / "lock")
    if lock is None:
        return 0
    listener = local_wire.listen(settings.directory)
    if options.detach and not _detached(settings.directory):
        return 0
    _serve(settings, listener)
    return 0


def _serve(settings: Settings, listener: socket.socket) -> None:
    me = identify(os.getpid())
    assert me is not None, "a running process has an identity"
    write_durably(settings.directory / "supervisor.json", json.dumps(asdict(me)))
    server = Server(LocalQueue(settings, time.time), listener, settings.idle_exit_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: server.stop())
    _log(f"supervisor {os.getpid()} serves {settings.directory}")
    server.serve()
    _log(f"supervisor {os.getpid()} ends; running jobs go on")


def _own_directory(directory: Path) -> None:
    """Whoever may enter the folder may start processes as us, so it must be ours alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise SystemExit(f"{directory} belongs to somebody else; choose another folder")
    directory.chmod(0o700)


def _detached(directory: Path) -> bool:
    """True in the long-lived process. The listening socket is open already, so a client that comes
    right after the launcher has ended is not refused."""
    if os.fork() != 0:
        return False
    os.setsid()
    sink = os.open(directory / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    return True


def _log(text: str) -> None:
    with suppress(OSError):  # a full disk must not end the supervisor
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

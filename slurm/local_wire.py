"""How a client and the local supervisor talk: one JSON line there, one back, per connection."""

import json
import os
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

SOCKET = "socket"
LIMIT_BYTES = 4 * 1024 * 1024


class WireError(Exception):
    """The other side said nothing that we can read."""


@contextmanager
def short_path(directory: Path) -> Generator[str, None, None]:
    """The socket's path by way of a descriptor: socket paths end at 107 bytes, folders do not."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def connect(directory: Path, deadline_s: float) -> socket.socket:
    """Raises FileNotFoundError or ConnectionRefusedError if nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(deadline_s)
    try:
        with short_path(directory) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def listen(directory: Path) -> socket.socket:
    """Only for the holder of the supervisor's lock: it removes the socket of a dead one."""
    (directory / SOCKET).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with short_path(directory) as path:
            server.bind(path)
    finally:
        os.umask(before)
    server.listen(64)
    return server


def peer_uid(connection: socket.socket) -> int:
    """The kernel's word for who connected."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", packed)[1])


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def receive(connection: socket.socket) -> dict[str, Any]:
    received = bytearray()
    while not received.endswith(b"\n"):
        chunk = connection.recv(65536)
        if not chunk or len(received) > LIMIT_BYTES:
            raise WireError(f"connection ended after {len(received)} bytes")
        received += chunk
    try:
        message: Any = json.loads(received)
    except ValueError as error:
        raise WireError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise WireError("not a JSON object")
    return cast(dict[str, Any], message)

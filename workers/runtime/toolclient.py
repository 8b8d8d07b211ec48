"""Talks to the tool server of one sandbox over its unix socket, one connection per command.

The sandbox can write the socket's folder, so the path is hostile: a symbolic link put there would
make a plain ``connect`` reach any socket of the host, the engine's own included. The socket is
therefore opened by handle, without following links, checked, and connected through that handle.

Sending and reading share a plain socket, not an asyncio transport. A command may end without having
read its stdin; the server then answers and hangs up while we still send. A transport would take the
broken pipe for the end of the connection and lose the answer that waits to be read.
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.runtime.engine import SandboxRuntimeError

SOCKET_NAME = "s"
CONTROL_DIR_INSIDE = "/run/skydeck/control"
SERVER_INSIDE = "/run/skydeck/toolserver"

_MAGIC = 0x31544B53
_FLAG_SHELL = 1
_REQUEST = struct.Struct("<IIIIIIQQ")
_FRAME = struct.Struct("<BI")
_RESULT = struct.Struct("<iiIQ")
_STDOUT, _STDERR, _DONE, _ERROR = 1, 2, 3, 4
_TIMED_OUT, _TRUNCATED = 1, 2 | 4
_MAX_FRAME = 1 << 20
_READ_SIZE = 1 << 16
_GRACE_S = 15.0
_READY_POLL_S = 0.003


class ToolServerLost(SandboxRuntimeError):
    """The sandbox's tool server cannot be reached, or went away in the middle of a command."""


class ToolProtocolError(SandboxRuntimeError):
    """What came from the sandbox is no answer of a tool server."""


@dataclass(frozen=True)
class Command:
    argv: Sequence[str]
    cwd: str = "/"
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    stdin: bytes = b""
    timeout_s: float = 60.0
    output_limit: int = 1_000_000
    """Bytes kept of each stream."""
    shell: bool = False
    """``argv[0]`` is a wish; where the image lacks it, ``sh`` runs instead."""


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    signal: int | None
    timed_out: bool
    truncated: bool
    stdout: bytes
    stderr: bytes
    seconds: float


def shell_command(text: str) -> tuple[str, ...]:
    return ("bash", "-c", text)


def encode(command: Command) -> bytes:
    """The request without its stdin. Raises ValueError for a NUL byte in any string."""
    strings = [command.cwd, *command.argv, *(f"{k}={v}" for k, v in command.env.items())]
    if not command.argv or any("\0" in text for text in strings):
        raise ValueError("a command needs an argument, and no string of it may hold a NUL byte")
    body = b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in strings)
    head = _REQUEST.pack(
        _MAGIC,
        _FLAG_SHELL if command.shell else 0,
        max(1, round(command.timeout_s * 1000)),
        len(command.argv),
        len(command.env),
        len(body),
        command.output_limit,
        len(command.stdin),
    )
    return head + body


class ToolClient:
    def __init__(self, control_dir: Path) -> None:
        self._control_dir = control_dir

    async def wait_ready(self, deadline_s: float) -> None:
        """Returns once the server accepts connections. Raises ToolServerLost at the deadline."""
        try:
            async with asyncio.timeout(deadline_s):
                while not await self._accepts():
                    await asyncio.sleep(_READY_POLL_S)
        except TimeoutError:
            raise ToolServerLost(f"no tool server within {deadline_s:.0f} s of the start") from None

    async def run(self, command: Command) -> Outcome:
        """Runs one command to its end. Cancelling this call kills the command's process group."""
        try:
            async with asyncio.timeout(command.timeout_s + _GRACE_S), self._connect() as connection:
                return await _converse(command, connection)
        except TimeoutError:
            raise ToolServerLost("the tool server gave no answer after the deadline") from None
        except (OSError, EOFError) as error:
            raise ToolServerLost(f"the tool server went away: {error}") from error

    async def _accepts(self) -> bool:
        try:
            async with self._connect():
                return True
        except OSError:
            return False

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncGenerator[socket.socket, None]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            handle = os.open(
                self._control_dir / SOCKET_NAME, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            )
            try:
                if not stat.S_ISSOCK(os.fstat(handle).st_mode):
                    raise OSError("the sandbox put something else in place of its socket")
                loop = asyncio.get_running_loop()
                await loop.sock_connect(connection, f"/proc/self/fd/{handle}")
            finally:
                os.close(handle)
            yield connection


async def _converse(command: Command, connection: socket.socket) -> Outcome:
    sending = asyncio.ensure_future(_send(connection, encode(command), command.stdin))
    try:
        return await _collect(command, _Answer(connection))
    finally:
        sending.cancel()
        await asyncio.wait((sending,))


async def _send(connection: socket.socket, *parts: bytes) -> None:
    """As much as the server takes. One that hung up may have answered: the reading tells."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        for part in parts:
            await loop.sock_sendall(connection, part)


class _Answer:
    """What the server sends, cut into the sizes that are asked for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._held = bytearray()

    async def take(self, size: int) -> bytes:
        """Raises EOFError when the server hung up before."""
        loop = asyncio.get_running_loop()
        while len(self._held) < size:
            # Reading does not wait while there is something to read: a sandbox that never stops
            # sending would hold the whole server, and no deadline would fire.
            await asyncio.sleep(0)
            data = await loop.sock_recv(self._connection, _READ_SIZE)
            if not data:
                raise EOFError("it hung up without a result")
            self._held += data
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken


async def _collect(command: Command, answer: _Answer) -> Outcome:
    kept = {_STDOUT: bytearray(), _STDERR: bytearray()}
    while True:
        kind, size = _FRAME.unpack(await answer.take(_FRAME.size))
        if size > _MAX_FRAME:
            raise ToolProtocolError(f"a frame of {size} bytes")
        data = await answer.take(size)
        if kind == _DONE and size == _RESULT.size:
            return _outcome(data, bytes(kept[_STDOUT]), bytes(kept[_STDERR]))
        if kind == _ERROR:
            raise ToolProtocolError(data.decode("utf-8", "replace"))
        if kind not in kept or not 0 < size <= command.output_limit - len(kept[kind]):
            raise ToolProtocolError(f"a frame of kind {kind} with {size} bytes was not asked for")
        kept[kind] += data


def _outcome(data: bytes, stdout: bytes, stderr: bytes) -> Outcome:
    exit_code, signal, bits, microseconds = _RESULT.unpack(data)
    return Outcome(
        exit_code=exit_code,
        signal=signal or None,
        timed_out=bool(bits & _TIMED_OUT),
        truncated=bool(bits & _TRUNCATED),
        stdout=stdout,
        stderr=stderr,
        seconds=microseconds / 1e6,
    )

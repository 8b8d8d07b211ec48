"""Talks to the tool server of one sandbox over its unix socket, one connection per command.

The sandbox can write the socket's folder, so the path is hostile: a symbolic link put there would
make a plain ``connect`` reach any socket of the host, the engine's own included. The socket is
therefore opened by handle, without following links, checked, and connected through that handle.
"""

import asyncio
import contextlib
import os
import stat
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.runtime.engine import SandboxRuntimeError

SOCKET_NAME = "s"
CONTROL_DIR_INSIDE = "/run/skydeck/control"
SERVER_INSIDE = "/run/skydeck/toolserver"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_MAGIC = 0x31544B53
_FLAG_SHELL = 1
_REQUEST = struct.Struct("<IIIIIIQQ")
_FRAME = struct.Struct("<BI")
_RESULT = struct.Struct("<iiIQ")
_STDOUT, _STDERR, _DONE, _ERROR = 1, 2, 3, 4
_TIMED_OUT, _TRUNCATED = 1, 2 | 4
_MAX_FRAME = 1 << 20
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
            async with asyncio.timeout(command.timeout_s + _GRACE_S), self._connect() as streams:
                return await _converse(command, *streams)
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
    async def _connect(
        self,
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
        handle = os.open(self._control_dir / SOCKET_NAME, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISSOCK(os.fstat(handle).st_mode):
                raise OSError("the sandbox put something else in place of its socket")
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def _converse(
    command: Command, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Outcome:
    writer.write(encode(command))
    feeding = asyncio.ensure_future(_feed(writer, command.stdin)) if command.stdin else None
    try:
        return await _collect(command, reader)
    finally:
        if feeding is not None:
            feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await feeding


async def _feed(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), _MAX_FRAME):
        writer.write(data[start : start + _MAX_FRAME])
        await writer.drain()


async def _collect(command: Command, reader: asyncio.StreamReader) -> Outcome:
    kept = {_STDOUT: bytearray(), _STDERR: bytearray()}
    while True:
        kind, size = _FRAME.unpack(await reader.readexactly(_FRAME.size))
        if size > _MAX_FRAME:
            raise ToolProtocolError(f"a frame of {size} bytes")
        data = await reader.readexactly(size)
        if kind == _DONE and size == _RESULT.size:
            return _outcome(data, bytes(kept[_STDOUT]), bytes(kept[_STDERR]))
        if kind == _ERROR:
            raise ToolProtocolError(data.decode("utf-8", "replace"))
        if kind not in kept or len(kept[kind]) + size > command.output_limit:
            raise ToolProtocolError(f"a frame of kind {kind} beyond what was asked for")
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

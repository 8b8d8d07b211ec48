"""The client of a tool server against servers that answer early, hang up, or make things up."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from workers.runtime.toolclient import (
    SOCKET_NAME,
    Command,
    ToolClient,
    ToolProtocolError,
    ToolServerLost,
)

DONE = struct.pack("<BIiiIQ", 3, 20, 0, 0, 0, 1000)
STDOUT_HI = struct.pack("<BI", 1, 2) + b"hi"
EMPTY_FRAME = struct.pack("<BI", 1, 0)
OVER_LIMIT = struct.pack("<BI", 1, 1001) + bytes(1001)
LARGE = bytes(4_000_000)
"""More than a unix socket holds: the client is still sending when the server has answered."""
TURNS = 100

Server = Callable[[socket.socket], Coroutine[None, None, None]]


@asynccontextmanager
async def serving(folder: Path, serve: Server) -> AsyncIterator[ToolClient]:
    async def accept() -> None:
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        with connection:
            connection.setblocking(False)
            await serve(connection)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(folder / SOCKET_NAME))
        listening.listen()
        listening.setblocking(False)
        task = asyncio.ensure_future(accept())
        yield ToolClient(folder)
        await task


async def turns() -> None:
    """The client has had every chance to see what was done to its connection."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def test_an_answer_is_read_though_the_server_stopped_reading_before_it_came(
    tmp_path: Path,
) -> None:
    async def serve(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_RD)
        await turns()
        await asyncio.get_running_loop().sock_sendall(connection, STDOUT_HI + DONE)

    async with serving(tmp_path, serve) as client:
        out = await client.run(Command(("true",), stdin=LARGE))
    assert (out.exit_code, out.stdout) == (0, b"hi")


async def test_an_answer_is_read_though_the_server_hung_up_with_input_unread(
    tmp_path: Path,
) -> None:
    async def serve(connection: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, STDOUT_HI + DONE)

    async with serving(tmp_path, serve) as client:
        out = await client.run(Command(("true",), stdin=LARGE))
    assert (out.exit_code, out.stdout) == (0, b"hi")


@pytest.mark.parametrize("part", [b"", STDOUT_HI, DONE[:-1]])
async def test_a_server_that_hangs_up_without_a_whole_result_is_lost(
    tmp_path: Path, part: bytes
) -> None:
    async def serve(connection: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, part)

    async with serving(tmp_path, serve) as client:
        with pytest.raises(ToolServerLost, match="went away"):
            await client.run(Command(("true",), stdin=LARGE))


@pytest.mark.parametrize("frame", [EMPTY_FRAME, OVER_LIMIT, struct.pack("<BI", 9, 0)])
async def test_a_frame_that_was_not_asked_for_is_refused(tmp_path: Path, frame: bytes) -> None:
    async def serve(connection: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, frame + DONE)

    async with serving(tmp_path, serve) as client:
        with pytest.raises(ToolProtocolError, match="not asked for"):
            await client.run(Command(("true",), output_limit=1000))

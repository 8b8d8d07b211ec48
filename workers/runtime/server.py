"""The HTTP application of a runtime, and the socket that it listens on."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from workers.contract.sandbox_api import SandboxErrorCode
from workers.runtime import native_api
from workers.runtime.errors import SandboxError
from workers.runtime.service import RuntimeService

SHUTDOWN_S = 3


def create_app(service: RuntimeService) -> FastAPI:
    app = FastAPI(title="Skydeck runtime", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.include_router(native_api.public)
    app.include_router(native_api.guarded)
    app.add_exception_handler(SandboxError, _sandbox_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


async def _sandbox_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SandboxError)
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else None
    return JSONResponse(
        {"error": error.code.value, "detail": str(error)}, error.status, headers=headers
    )


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    detail = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return JSONResponse({"error": SandboxErrorCode.INVALID.value, "detail": detail}, 422)


def own_address(control_plane_url: str) -> str:
    """The address of this node that the control plane's node can reach; trainers can too.

    Connecting a datagram socket sends nothing: it only asks the routing table.
    """
    target = urlsplit(control_plane_url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target.hostname or "127.0.0.1", target.port or 80))
        except OSError:
            return socket.gethostbyname(socket.gethostname())
        return str(probe.getsockname()[0])


def listen(address: str) -> socket.socket:
    """A free port on that address only.

    The protocol is named because asyncio turns Nagle's algorithm off only where it is: an answer
    would wait 40 ms for the acknowledgement of its own head.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 0))
    return listener


class _Server(uvicorn.Server):
    """Signals belong to our own drain, not to uvicorn."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: FastAPI, listener: socket.socket) -> AsyncGenerator[None, None]:
    """Answers requests inside the block; afterwards open requests get a few seconds."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=60,
    )
    server = _Server(config)
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        listener.close()

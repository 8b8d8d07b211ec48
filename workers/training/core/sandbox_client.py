"""Typed client of a runtime's native API.

Everything that goes wrong here is infrastructure: each error code of the contract, and every
broken connection, becomes an :class:`InfrastructureFailure` with the reason a rollout will carry.
A command's own failure is not an error; it is a :class:`CommandResult`.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx
from pydantic import ValidationError

from workers.contract.base import Message
from workers.contract.env import AUTHORIZATION
from workers.contract.reports import InvalidReason
from workers.contract.sandbox_api import (
    ExecRequest,
    ExecResult,
    FailureKind,
    RuntimeHealth,
    SandboxCreate,
    SandboxErrorCode,
    SandboxOut,
    SandboxState,
)
from workers.training.core.errors import InfrastructureFailure

_ANSWER_MARGIN_S = 30.0
"""A runtime answers late under load; its own deadline must be the one that strikes."""
_TAR = "application/x-tar"

Answer = TypeVar("Answer", bound=Message)

_REASONS = {
    SandboxErrorCode.UNAUTHENTICATED: InvalidReason.FENCED,
    SandboxErrorCode.LEASE_OVER: InvalidReason.FENCED,
    SandboxErrorCode.NOT_FOUND: InvalidReason.SANDBOX_LOST,
    SandboxErrorCode.NOT_READY: InvalidReason.SANDBOX_LOST,
    SandboxErrorCode.NO_CAPACITY: InvalidReason.SANDBOX_LOST,
    SandboxErrorCode.INVALID: InvalidReason.SANDBOX_LOST,
    SandboxErrorCode.FAILED: InvalidReason.SANDBOX_LOST,
}


@dataclass(frozen=True, slots=True)
class CommandResult:
    exit_code: int
    timed_out: bool
    stdout: str
    stderr: str
    truncated: bool
    seconds: float


class SandboxClient:
    """One runtime. Safe for concurrent use within one event loop."""

    def __init__(
        self, url: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        # No pool limit: the number of slots bounds the number of requests, and a request that
        # waits for a connection would be counted as a slow sandbox.
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={AUTHORIZATION: f"Bearer {token}"},
            transport=transport,
            timeout=httpx.Timeout(60.0, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def health(self) -> RuntimeHealth:
        response = await self._send("GET", "/health")
        return _parse(response, RuntimeHealth)

    async def create(self, request: SandboxCreate) -> SandboxOut:
        """A READY sandbox. Retried once: the same ``client_key`` gives the same sandbox."""
        content = request.model_dump_json().encode()
        timeout = request.wait_s + _ANSWER_MARGIN_S
        response = await self._send("POST", "/v1/sandboxes", content, timeout=timeout, tries=2)
        sandbox = _parse(response, SandboxOut)
        if sandbox.state is not SandboxState.READY:
            raise _not_started(sandbox)
        return sandbox

    async def get(self, sandbox_id: str) -> SandboxOut:
        return _parse(await self._send("GET", _path(sandbox_id), tries=2), SandboxOut)

    async def exec(self, sandbox_id: str, request: ExecRequest) -> CommandResult:
        """Runs once: a lost answer is not repeated, for the command may have had its effect."""
        content = request.model_dump_json().encode()
        timeout = request.timeout_s + _ANSWER_MARGIN_S
        response = await self._send("POST", _path(sandbox_id, "/exec"), content, timeout=timeout)
        return _decode(_parse(response, ExecResult))

    async def put_archive(self, sandbox_id: str, path: str, tar: bytes) -> None:
        await self._send(
            "PUT", _path(sandbox_id, "/archive"), tar, params={"path": path}, tries=2, media=_TAR
        )

    async def get_archive(self, sandbox_id: str, path: str, limit: int) -> bytes:
        """The tar of a file or folder; raises :class:`ArchiveRefused`."""
        try:
            async with self._http.stream(
                "GET", _path(sandbox_id, "/archive"), params={"path": path}
            ) as response:
                if not response.is_success:
                    await response.aread()
                    raise _refusal(response)
                return await _read_bounded(response, limit)
        except httpx.TransportError as error:
            raise _lost(self.url, error) from error

    async def delete(self, sandbox_id: str) -> None:
        await self._send("DELETE", _path(sandbox_id), tries=2)

    async def _send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        params: dict[str, str] | None = None,
        timeout: float = 60.0,
        tries: int = 1,
        media: str = "application/json",
    ) -> httpx.Response:
        for left in reversed(range(tries)):
            try:
                response = await self._http.request(
                    method,
                    path,
                    content=content,
                    params=params,
                    headers={"Content-Type": media} if content is not None else None,
                    timeout=httpx.Timeout(timeout, connect=10.0),
                )
            except httpx.TransportError as error:
                if left == 0:
                    raise _lost(self.url, error) from error
                continue
            if not response.is_success:
                raise _failure(response)
            return response
        raise AssertionError("tries must be at least 1")


class ArchiveRefused(Exception):
    """The path cannot be read, or is larger than the caller takes; whose fault that is, the
    caller knows."""


class Sandbox:
    """One sandbox with its runtime: what agents and graders work with."""

    def __init__(self, client: SandboxClient, out: SandboxOut) -> None:
        self._client = client
        self.out = out

    @property
    def id(self) -> str:
        return self.out.sandbox_id

    async def run(self, request: ExecRequest) -> CommandResult:
        return await self._client.exec(self.id, request)

    async def put(self, path: str, tar: bytes) -> None:
        await self._client.put_archive(self.id, path, tar)

    async def fetch(self, path: str, limit: int) -> bytes:
        return await self._client.get_archive(self.id, path, limit)


@asynccontextmanager
async def open_sandbox(
    client: SandboxClient, request: SandboxCreate
) -> AsyncGenerator[Sandbox, None]:
    """A sandbox that is always given back, also when the caller is cancelled.

    Should the release fail, the runtime removes the sandbox at its ``lifetime_s``.
    """
    creating = asyncio.ensure_future(client.create(request))
    try:
        out = await asyncio.shield(creating)
    except asyncio.CancelledError:
        creating.add_done_callback(_Abandon(client))
        raise
    try:
        yield Sandbox(client, out)
    finally:
        await _release(client, out.sandbox_id)


class _Abandon:
    """Gives back a sandbox whose requester left while it was being made."""

    def __init__(self, client: SandboxClient) -> None:
        self._client = client
        self._release: asyncio.Task[None] | None = None

    def __call__(self, creating: "asyncio.Future[SandboxOut]") -> None:
        if creating.cancelled() or creating.exception() is not None:
            return
        release = _release(self._client, creating.result().sandbox_id)
        self._release = asyncio.ensure_future(release)


async def _release(client: SandboxClient, sandbox_id: str) -> None:
    """Runs to its end even if the caller is cancelled meanwhile; a failure is the runtime's."""
    releasing = asyncio.ensure_future(_delete_quietly(client, sandbox_id))
    try:
        await asyncio.shield(releasing)
    except asyncio.CancelledError:
        await asyncio.wait([releasing], timeout=_ANSWER_MARGIN_S)
        raise


async def _delete_quietly(client: SandboxClient, sandbox_id: str) -> None:
    try:
        await client.delete(sandbox_id)
    except InfrastructureFailure:
        return


def _path(sandbox_id: str, rest: str = "") -> str:
    return f"/v1/sandboxes/{sandbox_id}{rest}"


def _parse(response: httpx.Response, message: type[Answer]) -> Answer:
    try:
        return message.model_validate_json(response.content)
    except ValidationError as error:
        raise InfrastructureFailure(
            InvalidReason.SANDBOX_LOST,
            f"{response.request.url}: the runtime's answer does not fit the contract: {error}",
        ) from error


def _decode(result: ExecResult) -> CommandResult:
    return CommandResult(
        exit_code=result.exit_code,
        timed_out=result.timed_out,
        stdout=base64.b64decode(result.stdout_b64).decode("utf-8", "replace"),
        stderr=base64.b64decode(result.stderr_b64).decode("utf-8", "replace"),
        truncated=result.truncated,
        seconds=result.seconds,
    )


async def _read_bounded(response: httpx.Response, limit: int) -> bytes:
    read = bytearray()
    async for chunk in response.aiter_bytes():
        read += chunk
        if len(read) > limit:
            raise ArchiveRefused(f"{response.request.url}: more than {limit} bytes")
    return bytes(read)


def _failure(response: httpx.Response) -> InfrastructureFailure:
    code, detail = _error_of(response)
    reason = _REASONS.get(code, InvalidReason.SANDBOX_LOST) if code else InvalidReason.SANDBOX_LOST
    if code is SandboxErrorCode.FAILED and detail.startswith(FailureKind.IMAGE):
        reason = InvalidReason.IMAGE_FAILED
    return InfrastructureFailure(
        reason,
        f"{response.request.method} {response.request.url}: {code or response.status_code}:"
        f" {detail}",
        retryable=code is not SandboxErrorCode.INVALID,
        retry_after_s=_retry_after(response),
    )


def _refusal(response: httpx.Response) -> InfrastructureFailure | ArchiveRefused:
    code, detail = _error_of(response)
    return ArchiveRefused(detail) if code is SandboxErrorCode.INVALID else _failure(response)


def _error_of(response: httpx.Response) -> tuple[SandboxErrorCode | None, str]:
    try:
        body = response.json()
        return SandboxErrorCode(body["error"]), str(body["detail"])
    except (ValueError, KeyError, TypeError):
        return None, response.text[:500]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None


def _not_started(sandbox: SandboxOut) -> InfrastructureFailure:
    image = sandbox.failure is FailureKind.IMAGE
    return InfrastructureFailure(
        InvalidReason.IMAGE_FAILED if image else InvalidReason.SANDBOX_LOST,
        f"sandbox {sandbox.sandbox_id} is {sandbox.state}: {sandbox.failure_detail}",
    )


def _lost(url: str, error: httpx.TransportError) -> InfrastructureFailure:
    return InfrastructureFailure(InvalidReason.SANDBOX_LOST, f"runtime {url}: {error!r}")

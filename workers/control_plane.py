"""Client of the control plane's internal API, for everything that runs inside a job.

Every call may be repeated (registration by generation, reports by sequence, leases by id), so an
unclear outcome is simply tried again. Three answers are told apart by type: the work is over
(:class:`Superseded`), somebody else holds the place (:class:`Conflict`), nobody answered in time
(:class:`Unavailable`). Everything else is a mistake of ours (:class:`Rejected`).
"""

import asyncio
import json
import random
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import ValidationError

from workers.contract.base import Message
from workers.contract.env import AUTHORIZATION
from workers.contract.leases import LeaseAnswer, LeaseRequest
from workers.contract.registration import (
    HeartbeatAnswer,
    Registered,
    RegisterRuntime,
    RegisterTrainer,
    RuntimeHeartbeat,
    TrainerHeartbeat,
)
from workers.contract.reports import ReportAnswer, ReportBatch

BASE_PATH = "/api/internal"
_GROUP_AND_OTHERS = 0o077

Answer = TypeVar("Answer", bound=Message)


class ControlPlaneError(Exception):
    """The control plane could not do what a worker asked."""

    def __init__(self, text: str, code: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.code = code
        """The ``error`` of the answer; empty when there was no answer."""
        self.retry_after_s = retry_after_s


class Superseded(ControlPlaneError):
    """410: this attempt or generation is over. Stop; never ask again."""


class Conflict(ControlPlaneError):
    """409: another job holds this place."""


class Rejected(ControlPlaneError):
    """Any other 4xx, or an answer that does not fit the contract: asking again cannot help."""


class Unavailable(ControlPlaneError):
    """No usable answer after all tries. An outage is not a failure of the work."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential back-off with full jitter, so that many workers do not come back together."""

    tries: int = 4
    first_s: float = 0.2
    ceiling_s: float = 5.0
    random: Callable[[], float] = field(default=random.random)

    def delay(self, failed_tries: int, retry_after_s: float | None = None) -> float:
        """Seconds to wait after the n-th failure; a server's wish wins up to the ceiling."""
        if retry_after_s is not None:
            return min(retry_after_s, self.ceiling_s)
        return self.random() * min(self.ceiling_s, self.first_s * 2 ** (failed_tries - 1))


def read_address(control_plane_file: Path) -> str:
    """The base URL, read anew each time: a restarted control plane may listen elsewhere."""
    try:
        url = json.loads(control_plane_file.read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            f"{control_plane_file}: no address of the control plane ({error!r});"
            " `skydeck up` writes this file when it starts"
        ) from error
    return str(url).rstrip("/")


def read_token(token_file: Path) -> str:
    """The bearer token. A file that others may read is refused: its secret is no longer one."""
    try:
        if token_file.stat().st_mode & _GROUP_AND_OTHERS:
            raise Rejected(f"{token_file} is readable by others; make it private: chmod 600")
        return token_file.read_text().strip()
    except (FileNotFoundError, PermissionError) as error:
        raise Rejected(f"{token_file}: cannot read the token ({error.strerror})") from error
    except OSError as error:
        # A shared file system in trouble comes back; the work must not end for it.
        raise Unavailable(f"{token_file}: cannot read the token ({error.strerror})") from error


def _interpret(path: str, response: httpx.Response, answer: type[Answer]) -> Answer:
    if response.is_success:
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise Rejected(f"{path}: the answer does not fit the contract: {error}") from error
    code, detail = _error_of(response)
    text = f"{path}: {response.status_code} {detail}"
    raise _error_class(response)(text, code, _retry_after(response))


def _error_class(response: httpx.Response) -> type[ControlPlaneError]:
    if response.status_code == HTTPStatus.GONE:
        return Superseded
    if response.status_code == HTTPStatus.CONFLICT:
        return Conflict
    if response.is_server_error or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        return Unavailable
    return Rejected


def _error_of(response: httpx.Response) -> tuple[str, str]:
    try:
        body = response.json()
        return str(body["error"]), str(body["detail"])
    except (ValueError, KeyError, TypeError):
        return "", response.text[:500]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class _Call:
    """One prepared request: address and token are read for every try."""

    control_plane_file: Path
    token_file: Path
    path: str
    message: Message

    def build(self) -> httpx.Request:
        return httpx.Request(
            "POST",
            read_address(self.control_plane_file) + BASE_PATH + self.path,
            content=self.message.model_dump_json(),
            headers={
                AUTHORIZATION: f"Bearer {read_token(self.token_file)}",
                "Content-Type": "application/json",
            },
            extensions={"timeout": httpx.Timeout(10.0, connect=5.0).as_dict()},
        )


class AsyncControlPlane:
    """For code that lives in an event loop."""

    def __init__(
        self,
        control_plane_file: Path,
        token_file: Path,
        *,
        retry: Retry | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._files = (control_plane_file, token_file)
        self._retry = retry or Retry()
        self._sleep = sleep
        self._client = httpx.AsyncClient(transport=transport, trust_env=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def register_runtime(self, message: RegisterRuntime) -> Registered:
        return await self._post("/runtimes/register", message, Registered)

    async def runtime_heartbeat(self, message: RuntimeHeartbeat) -> HeartbeatAnswer:
        return await self._post("/runtimes/heartbeat", message, HeartbeatAnswer)

    async def register_trainer(self, message: RegisterTrainer) -> Registered:
        return await self._post("/trainers/register", message, Registered)

    async def trainer_heartbeat(self, message: TrainerHeartbeat) -> HeartbeatAnswer:
        return await self._post("/trainers/heartbeat", message, HeartbeatAnswer)

    async def lease(self, message: LeaseRequest) -> LeaseAnswer:
        return await self._post("/leases", message, LeaseAnswer)

    async def report(self, batch: ReportBatch) -> ReportAnswer:
        return await self._post("/reports", batch, ReportAnswer)

    async def _post(self, path: str, message: Message, answer: type[Answer]) -> Answer:
        call = _Call(*self._files, path, message)
        for failed in range(1, self._retry.tries + 1):
            try:
                return _interpret(path, await self._client.send(call.build()), answer)
            except (Unavailable, httpx.TransportError) as error:
                trouble = _as_unavailable(path, error)
                if failed == self._retry.tries:
                    raise trouble from error
            await self._sleep(self._retry.delay(failed, trouble.retry_after_s))
        raise AssertionError("Retry.tries must be at least 1")


class ControlPlane:
    """The same for threads: heartbeat and reporter run beside an event loop, not in it.

    ``wait`` sleeps between tries; give an ``Event.wait`` to have the wait end early.
    """

    def __init__(
        self,
        control_plane_file: Path,
        token_file: Path,
        *,
        retry: Retry | None = None,
        wait: Callable[[float], object] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._files = (control_plane_file, token_file)
        self._retry = retry or Retry()
        self._wait = wait or threading.Event().wait
        self._client = httpx.Client(transport=transport, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def register_trainer(self, message: RegisterTrainer) -> Registered:
        return self._post("/trainers/register", message, Registered)

    def trainer_heartbeat(self, message: TrainerHeartbeat) -> HeartbeatAnswer:
        return self._post("/trainers/heartbeat", message, HeartbeatAnswer)

    def report(self, batch: ReportBatch) -> ReportAnswer:
        return self._post("/reports", batch, ReportAnswer)

    def _post(self, path: str, message: Message, answer: type[Answer]) -> Answer:
        call = _Call(*self._files, path, message)
        for failed in range(1, self._retry.tries + 1):
            try:
                return _interpret(path, self._client.send(call.build()), answer)
            except (Unavailable, httpx.TransportError) as error:
                trouble = _as_unavailable(path, error)
                if failed == self._retry.tries:
                    raise trouble from error
            self._wait(self._retry.delay(failed, trouble.retry_after_s))
        raise AssertionError("Retry.tries must be at least 1")


def _as_unavailable(path: str, error: Unavailable | httpx.TransportError) -> Unavailable:
    return error if isinstance(error, Unavailable) else Unavailable(f"{path}: {error!r}")

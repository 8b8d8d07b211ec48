"""The native API's routes; the contract is in :mod:`workers.contract.sandbox_api`."""

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from workers.contract.sandbox_api import (
    ExecRequest,
    ExecResult,
    RuntimeHealth,
    SandboxCreate,
    SandboxList,
    SandboxOut,
    StopReason,
)
from workers.runtime import archives
from workers.runtime.errors import InvalidRequest
from workers.runtime.service import RuntimeService
from workers.runtime.toolclient import Command, Outcome, shell_command

TAR = "application/x-tar"


def _service(request: Request) -> RuntimeService:
    return request.app.state.service


def _authorised(request: Request) -> None:
    _service(request).check_token(request.headers.get("Authorization"))


Service = Annotated[RuntimeService, Depends(_service)]
ArchivePath = Annotated[str, Query(alias="path")]

public = APIRouter()
guarded = APIRouter(prefix="/v1", dependencies=[Depends(_authorised)])


@public.get("/health")
async def health(service: Service) -> RuntimeHealth:
    return service.health()


@guarded.post("/sandboxes")
async def create(body: SandboxCreate, service: Service) -> SandboxOut:
    return (await service.sandboxes.create(body)).out()


@guarded.get("/sandboxes")
async def index(service: Service) -> SandboxList:
    return SandboxList(sandboxes=tuple(s.out() for s in service.sandboxes.all()))


@guarded.get("/sandboxes/{sandbox_id}")
async def show(sandbox_id: str, service: Service) -> SandboxOut:
    return service.sandboxes.get(sandbox_id).out()


@guarded.post("/sandboxes/{sandbox_id}/exec")
async def execute(sandbox_id: str, body: ExecRequest, service: Service) -> ExecResult:
    return _result(await service.sandboxes.run(sandbox_id, _command(body)))


@guarded.put("/sandboxes/{sandbox_id}/archive", status_code=204)
async def put_archive(
    sandbox_id: str, path: ArchivePath, request: Request, service: Service
) -> None:
    archives.checked_path(path)
    await archives.put(service.sandboxes, sandbox_id, path, await _bounded_body(request))


@guarded.get("/sandboxes/{sandbox_id}/archive", response_class=Response)
async def get_archive(sandbox_id: str, path: ArchivePath, service: Service) -> Response:
    data = await archives.get(service.sandboxes, sandbox_id, path)
    return Response(data, media_type=TAR)


@guarded.delete("/sandboxes/{sandbox_id}", status_code=204)
async def delete(sandbox_id: str, service: Service) -> None:
    await service.sandboxes.stop(sandbox_id, StopReason.RELEASED)


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > archives.ARCHIVE_LIMIT:
            raise InvalidRequest(f"an archive may have {archives.ARCHIVE_LIMIT >> 20} MiB")
    return bytes(body)


def _command(body: ExecRequest) -> Command:
    if (body.command is None) == (body.argv is None):
        raise InvalidRequest("give exactly one of command and argv")
    argv = body.argv if body.argv is not None else shell_command(body.command or "")
    strings = [body.cwd, *argv, *body.env, *body.env.values()]
    if not argv or any("\0" in text for text in strings) or any("=" in k for k in body.env):
        raise InvalidRequest("a command needs an argument; NUL bytes and '=' in names are refused")
    return Command(
        argv=argv,
        cwd=body.cwd,
        env=body.env,
        stdin=_decoded(body.stdin_b64),
        timeout_s=body.timeout_s,
        output_limit=body.output_limit,
        shell=body.command is not None,
    )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"stdin_b64 is not base64: {error}") from None


def _result(outcome: Outcome) -> ExecResult:
    return ExecResult(
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        timed_out=outcome.timed_out,
        stdout_b64=base64.b64encode(outcome.stdout).decode(),
        stderr_b64=base64.b64encode(outcome.stderr).decode(),
        truncated=outcome.truncated,
        seconds=outcome.seconds,
    )

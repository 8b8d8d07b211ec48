"""A runtime's native API in memory, for what a real one cannot be made to do at will.

What containers, shells and files really do is tested against the real runtime
(tests/integration/test_core_real_runtime.py); here requests are answered by a script.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from workers.contract.env import RESULTS
from workers.contract.sandbox_api import (
    ExecRequest,
    ExecResult,
    RuntimeHealth,
    SandboxCreate,
    SandboxErrorCode,
    SandboxOut,
    SandboxState,
)
from workers.contract.version import CONTRACT_VERSION
from workers.training.core.sandbox_client import SandboxClient
from workers.training.core.workspace import File, pack, unpack

STATUS = {
    SandboxErrorCode.UNAUTHENTICATED: 401,
    SandboxErrorCode.NOT_FOUND: 404,
    SandboxErrorCode.NOT_READY: 409,
    SandboxErrorCode.LEASE_OVER: 410,
    SandboxErrorCode.INVALID: 422,
    SandboxErrorCode.FAILED: 502,
    SandboxErrorCode.NO_CAPACITY: 503,
}


def result(stdout: str = "", exit_code: int = 0, **more: object) -> ExecResult:
    encoded = base64.b64encode(stdout.encode()).decode()
    return ExecResult(exit_code=exit_code, stdout_b64=encoded, seconds=0.01, **more)


@dataclass
class StubSandbox:
    out: SandboxOut
    files: dict[str, File] = field(default_factory=dict)
    """By absolute path without the leading slash."""


Handler = Callable[[StubSandbox, ExecRequest], ExecResult]


def echo(sandbox: StubSandbox, request: ExecRequest) -> ExecResult:
    return result(f"ran {request.command}\n")


@dataclass
class StubRuntime:
    """``command`` answers the agent's commands, ``verdict`` says which hidden tests pass."""

    token: str = "secret"
    slots: int = 4
    command: Handler = echo
    verdict: Callable[[StubSandbox], dict[str, bool] | None] = lambda _: {"t": True}
    grader_exit: int | None = None
    hostname: str | None = None
    """What commands inside print; None: the sandbox's own."""
    sandboxes: dict[str, StubSandbox] = field(default_factory=dict)
    created: list[SandboxCreate] = field(default_factory=list)
    alive_most: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[SandboxErrorCode | Exception]] = field(default_factory=dict)
    """Per operation (create, exec, put, get, delete): what its next calls meet."""

    def client(self) -> SandboxClient:
        return SandboxClient("http://stub", self.token, transport=httpx.MockTransport(self.answer))

    def fail(self, operation: str, *faults: SandboxErrorCode | Exception) -> None:
        self.faults.setdefault(operation, []).extend(faults)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return self._json(self._health())
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._error(SandboxErrorCode.UNAUTHENTICATED)
        parts = request.url.path.removeprefix("/v1/sandboxes").strip("/").split("/")
        operation = _operation(request.method, parts)
        self.calls[operation] += 1
        if self.faults.get(operation):
            fault = self.faults[operation].pop(0)
            if isinstance(fault, Exception):
                raise fault
            return self._error(fault)
        if operation == "create":
            return self._create(SandboxCreate.model_validate_json(request.content))
        if operation == "delete":
            self.sandboxes.pop(parts[0], None)
            return httpx.Response(204)
        sandbox = self.sandboxes.get(parts[0])
        if sandbox is None:
            return self._error(SandboxErrorCode.NOT_FOUND)
        return self._on(sandbox, operation, request)

    def _on(self, sandbox: StubSandbox, operation: str, request: httpx.Request) -> httpx.Response:
        if operation == "exec":
            return self._json(self._exec(sandbox, ExecRequest.model_validate_json(request.content)))
        path = request.url.params["path"].strip("/")
        if operation == "put":
            put = unpack(request.content, path).files
            sandbox.files |= {f"{path}/{name}": file for name, file in put.items()}
            return httpx.Response(204)
        below = {
            name.removeprefix(f"{path}/"): file
            for name, file in sandbox.files.items()
            if name.startswith(f"{path}/")
        }
        return httpx.Response(200, content=pack(below))

    def _create(self, request: SandboxCreate) -> httpx.Response:
        self.created.append(request)
        number = len(self.created)
        out = SandboxOut(
            sandbox_id=f"sb{number}",
            client_key=request.client_key,
            state=SandboxState.READY,
            image=request.image,
            purpose=request.purpose,
            hostname=f"box{number}",
            created_at="2026-01-01T00:00:00Z",
        )
        self.sandboxes[out.sandbox_id] = StubSandbox(out)
        self.alive_most = max(self.alive_most, len(self.sandboxes))
        return self._json(out)

    def _exec(self, sandbox: StubSandbox, request: ExecRequest) -> ExecResult:
        if request.command is not None:
            return self.command(sandbox, request)
        if RESULTS not in request.env:
            return result(f"{self.hostname or sandbox.out.hostname}\n")
        return self._judge(sandbox, request)

    def _judge(self, sandbox: StubSandbox, request: ExecRequest) -> ExecResult:
        assert request.argv is not None
        nonce = request.argv[6]
        verdict = self.verdict(sandbox)
        written = "" if verdict is None else json.dumps({"tests": verdict})
        passed = verdict is not None and all(verdict.values())
        code = self.grader_exit if self.grader_exit is not None else int(not passed)
        return result(f"{nonce} applied\n{written}", code)

    def _health(self) -> RuntimeHealth:
        return RuntimeHealth(
            contract_version=CONTRACT_VERSION,
            run_id="r1",
            attempt=1,
            index=0,
            generation=1,
            job_name="job",
            ready=True,
            slots=self.slots,
            slots_used=len(self.sandboxes),
            waiting=0,
        )

    def _json(self, message: RuntimeHealth | SandboxOut | ExecResult) -> httpx.Response:
        return httpx.Response(200, json=message.model_dump(mode="json"))

    def _error(self, code: SandboxErrorCode) -> httpx.Response:
        return httpx.Response(STATUS[code], json={"error": code, "detail": "as the test wants"})


def _operation(method: str, parts: list[str]) -> str:
    if method == "POST":
        return "exec" if parts[-1] == "exec" else "create"
    if method == "DELETE":
        return "delete"
    return "put" if method == "PUT" else "get"

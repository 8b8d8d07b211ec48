"""The runtime server's native API: what the trainer says to a runtime and gets back.

Routes (Bearer token = the attempt's sandbox token; ``/health`` needs none and tells no secrets):

======  =====================================  =========================  ======================
POST    /v1/sandboxes                          SandboxCreate              SandboxOut, 200
GET     /v1/sandboxes                                                     SandboxList
GET     /v1/sandboxes/{id}                                                SandboxOut
POST    /v1/sandboxes/{id}/exec                ExecRequest                ExecResult
PUT     /v1/sandboxes/{id}/archive?path=/abs   tar bytes (x-tar)          204
GET     /v1/sandboxes/{id}/archive?path=/abs                              tar bytes (x-tar)
DELETE  /v1/sandboxes/{id}                                                204, also when unknown
GET     /health                                                           RuntimeHealth
======  =====================================  =========================  ======================

Errors are ``{"error": code, "detail": text}`` with one of :class:`SandboxErrorCode`.
"""

from enum import StrEnum

from pydantic import Field

from workers.contract.base import Message


class SandboxState(StrEnum):
    REQUESTED = "REQUESTED"
    PREPARING = "PREPARING"
    STARTING = "STARTING"
    READY = "READY"
    PAUSED = "PAUSED"
    STOPPING = "STOPPING"
    GONE = "GONE"
    FAILED = "FAILED"


class StopReason(StrEnum):
    RELEASED = "released"
    CLIENT_STOP = "client_stop"
    IDLE = "idle"
    DEADLINE = "deadline"
    LEASE_OVER = "lease_over"
    DRAIN = "drain"


class FailureKind(StrEnum):
    IMAGE = "image"
    START = "start"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    ENGINE = "engine"


class SandboxErrorCode(StrEnum):
    UNAUTHENTICATED = "unauthenticated"  # 401
    NOT_FOUND = "sandbox_not_found"  # 404
    NOT_READY = "sandbox_not_ready"  # 409: stopped or failed; the detail says which
    LEASE_OVER = "lease_over"  # 410: the generation drains or is closed
    INVALID = "invalid"  # 422
    NO_CAPACITY = "no_capacity"  # 503 with Retry-After: the wait for a slot outlasted wait_s
    FAILED = "sandbox_failed"  # 502: image, start, crash, engine; infrastructure, never a reward


class SandboxCreate(Message):
    client_key: str = Field(min_length=1, max_length=200)
    """The caller's own name for this sandbox. The same key again returns the same sandbox."""
    image: str
    purpose: str = "agent"
    """``agent`` or ``grader``: shown on the dashboard, changes nothing."""
    wait_s: float = 120.0
    """Longest wait for slot, image and start together, in seconds."""
    lifetime_s: float = 1800.0
    """Deadline after which the runtime removes the sandbox whatever happens, in seconds."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Shown with the sandbox: rollout, task. No secrets."""


class SandboxOut(Message):
    sandbox_id: str
    client_key: str
    state: SandboxState
    image: str
    purpose: str
    hostname: str
    """The sandbox's own host name: proof in transcripts of where a command ran."""
    created_at: str
    """ISO 8601, UTC."""
    ready_at: str | None = None
    ended_at: str | None = None
    stop_reason: StopReason | None = None
    failure: FailureKind | None = None
    failure_detail: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    start_s: float | None = None
    """Seconds from request to READY, waiting for a slot included."""


class SandboxList(Message):
    sandboxes: tuple[SandboxOut, ...]


class ExecRequest(Message):
    command: str | None = None
    """Run as ``bash -c command`` (``sh`` where the image has no bash). Exactly one of both."""
    argv: tuple[str, ...] | None = None
    cwd: str = "/"
    env: dict[str, str] = Field(default_factory=dict)
    stdin_b64: str = ""
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """After this many seconds the whole process group is killed and ``timed_out`` is true."""
    output_limit: int = Field(default=1_000_000, gt=0, le=100_000_000)
    """Bytes kept of each stream; the rest is dropped and ``truncated`` is true."""


class ExecResult(Message):
    exit_code: int
    """The command's own; 128 + signal when it was killed by one; -1 when it timed out."""
    signal: int | None = None
    timed_out: bool = False
    stdout_b64: str = ""
    stderr_b64: str = ""
    truncated: bool = False
    seconds: float


class Limit(Message):
    """One limit as measured by a probe sandbox, never as promised by the engine."""

    name: str
    requested: str
    enforced: bool
    evidence: str


class RuntimeHealth(Message):
    contract_version: int
    run_id: str
    attempt: int
    index: int
    generation: int
    job_name: str
    ready: bool
    reason: str = ""
    """Why it is not ready; empty when it is."""
    slots: int
    slots_used: int
    waiting: int
    """Requests that wait for a slot."""
    engine: str = ""
    limits: tuple[Limit, ...] = ()

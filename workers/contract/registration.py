"""How a worker makes itself known and stays known."""

from pydantic import Field

from workers.contract.base import Message
from workers.contract.sandbox_api import Limit, SandboxOut


class RegisterRuntime(Message):
    """``POST /api/internal/runtimes/register`` with the runtime token.

    The first job to register a generation wins and may register again after a crash of its
    server; another job gets 409, an old attempt or generation 410.
    """

    contract_version: int
    run_id: str
    attempt: int
    index: int
    generation: int
    job_name: str
    scheduler_job_id: str | None = None
    hostname: str
    pid: int
    url: str
    """``http://host:port`` without a path, reachable from the trainer's node."""
    slots: int = Field(ge=1)
    engine: str
    limits: tuple[Limit, ...] = ()


class RegisterTrainer(Message):
    """``POST /api/internal/trainers/register`` with the trainer token."""

    contract_version: int
    run_id: str
    attempt: int
    job_name: str
    generation: int
    scheduler_job_id: str | None = None
    hostname: str
    pid: int


class Registered(Message):
    heartbeat_s: float
    """Send a heartbeat this often, in seconds."""


class RuntimeHeartbeat(Message):
    """``POST /api/internal/runtimes/heartbeat``."""

    run_id: str
    attempt: int
    index: int
    generation: int
    job_name: str
    slots: int
    slots_used: int
    waiting: int
    draining: bool = False
    sandboxes: tuple[SandboxOut, ...] = ()
    """Every sandbox that changed since the last heartbeat that was accepted (ended ones too)."""


class TrainerHeartbeat(Message):
    """``POST /api/internal/trainers/heartbeat``."""

    run_id: str
    attempt: int
    generation: int
    job_name: str
    phase: str
    """``starting``, ``training``, ``saving``, ``finishing``: what the trainer does now."""
    step: int = 0
    steps_total: int = 0


class HeartbeatAnswer(Message):
    stop: bool = False
    """True: this generation or attempt is over; drain and leave."""
    drain: bool = False

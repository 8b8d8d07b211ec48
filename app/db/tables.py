"""Mapped classes. No rules here: ``app.domain`` has them, ``app.db`` functions keep them."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.db.types import EnumText, UTCDateTime
from app.domain.states import (
    CloseReason,
    Desired,
    JobState,
    Reason,
    Role,
    RunState,
    RuntimeState,
)
from workers.contract.reports import InvalidReason, RolloutEnd, RolloutState
from workers.contract.sandbox_api import SandboxState
from workers.contract.spec import RunKind

# Auto-increment needs INTEGER on SQLite; PostgreSQL gets 64 bits.
BigId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: UTCDateTime, dict[str, Any]: JSON, list[Any]: JSON}


class Installation(Base):
    """One row: which installation this database belongs to; part of every job name."""

    __tablename__ = "installation"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    created_at: Mapped[datetime]


class ReconcilerLease(Base):
    """One row: who reconciles, and until when nobody else may."""

    __tablename__ = "reconciler_lease"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime]
    last_tick_at: Mapped[datetime | None]
    scheduler_ok_at: Mapped[datetime | None]
    scheduler_error: Mapped[str] = mapped_column(Text, default="")


class ApiToken(Base):
    """A person's token. Only the hash is kept."""

    __tablename__ = "api_token"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Experiment(Base):
    __tablename__ = "experiment"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime]


class Sweep(Base):
    __tablename__ = "sweep"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"))
    name: Mapped[str] = mapped_column(String(100))
    spec: Mapped[dict[str, Any]]
    """The base spec, before the grid."""
    grid: Mapped[dict[str, Any]]
    parallel: Mapped[int]
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class Run(Base):
    __tablename__ = "run"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"), index=True)
    sweep_id: Mapped[str | None] = mapped_column(ForeignKey("sweep.id"), index=True)
    sweep_index: Mapped[int | None]
    name: Mapped[str] = mapped_column(String(100))
    kind: Mapped[RunKind] = mapped_column(EnumText(RunKind))
    spec: Mapped[dict[str, Any]]
    origins: Mapped[dict[str, Any]]
    """Dotted key of the spec to the layer that set it."""
    desired: Mapped[Desired] = mapped_column(EnumText(Desired))
    state: Mapped[RunState] = mapped_column(EnumText(RunState), index=True)
    reason: Mapped[Reason | None] = mapped_column(EnumText(Reason))
    """Why the current (or last) attempt stops."""
    reason_detail: Mapped[str] = mapped_column(Text, default="")
    attempt: Mapped[int] = mapped_column(default=1)
    attempts_without_checkpoint: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=1)
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    request_hash: Mapped[str] = mapped_column(String(64), default="")
    created_by: Mapped[str] = mapped_column(String(100), default="")
    created_at: Mapped[datetime]
    state_since: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    next_check_at: Mapped[datetime] = mapped_column(index=True)


class Attempt(Base):
    __tablename__ = "attempt"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    directory: Mapped[str] = mapped_column(Text)
    runtime_token_hash: Mapped[str | None] = mapped_column(String(64), index=True)
    trainer_token_hash: Mapped[str | None] = mapped_column(String(64), index=True)
    resume_checkpoint: Mapped[str | None] = mapped_column(Text)
    resume_step: Mapped[int] = mapped_column(default=0)
    prepared_at: Mapped[datetime | None]
    reason: Mapped[Reason | None] = mapped_column(EnumText(Reason))
    reason_detail: Mapped[str] = mapped_column(Text, default="")
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    phase: Mapped[str] = mapped_column(String(32), default="")
    step: Mapped[int] = mapped_column(default=0)
    steps_total: Mapped[int] = mapped_column(default=0)
    trainer_registered_at: Mapped[datetime | None]
    trainer_heartbeat_at: Mapped[datetime | None]
    trainer_hostname: Mapped[str] = mapped_column(String(200), default="")
    trainer_scheduler_job_id: Mapped[str | None] = mapped_column(String(32))


class Job(Base):
    __tablename__ = "job"
    __table_args__ = (UniqueConstraint("run_id", "attempt", "role", "index", "generation"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), index=True)
    attempt: Mapped[int]
    role: Mapped[Role] = mapped_column(EnumText(Role))
    index: Mapped[int]
    generation: Mapped[int]
    name: Mapped[str] = mapped_column(String(120), unique=True)
    state: Mapped[JobState] = mapped_column(EnumText(JobState), index=True)
    scheduler_id: Mapped[str | None] = mapped_column(String(32))
    raw_state: Mapped[str] = mapped_column(String(64), default="")
    pending_reason: Mapped[str] = mapped_column(Text, default="")
    detail: Mapped[str] = mapped_column(Text, default="")
    exit_code: Mapped[int | None]
    signal: Mapped[int | None]
    nodes: Mapped[str] = mapped_column(Text, default="")
    exit_record: Mapped[dict[str, Any] | None]
    not_before: Mapped[datetime | None]
    """A planned job is not submitted earlier (back-off of the next attempt)."""
    absent_since: Mapped[datetime | None]
    """First of an unbroken row of Absent observations: settle window and vanish grace."""
    cancel_requested_at: Mapped[datetime | None]
    submit_started_at: Mapped[datetime | None]
    state_since: Mapped[datetime]
    submitted_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Runtime(Base):
    """One generation of one runtime index of an attempt."""

    __tablename__ = "runtime"
    __table_args__ = (UniqueConstraint("run_id", "attempt", "index", "generation"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), index=True)
    attempt: Mapped[int]
    index: Mapped[int]
    generation: Mapped[int]
    job_name: Mapped[str] = mapped_column(String(120))
    scheduler_job_id: Mapped[str | None] = mapped_column(String(32))
    """Of the job that registered first: a second copy of the job is told apart by it."""
    state: Mapped[RuntimeState] = mapped_column(EnumText(RuntimeState))
    close_reason: Mapped[CloseReason | None] = mapped_column(EnumText(CloseReason))
    url: Mapped[str] = mapped_column(Text, default="")
    hostname: Mapped[str] = mapped_column(String(200), default="")
    pid: Mapped[int | None]
    slots: Mapped[int] = mapped_column(default=0)
    slots_used: Mapped[int] = mapped_column(default=0)
    waiting: Mapped[int] = mapped_column(default=0)
    engine: Mapped[str] = mapped_column(String(100), default="")
    limits: Mapped[list[Any]]
    registered_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]


class Lease(Base):
    __tablename__ = "lease"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    runtime_id: Mapped[int] = mapped_column(ForeignKey("runtime.id"), index=True)
    run_id: Mapped[str] = mapped_column(String(16), index=True)
    attempt: Mapped[int]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]


class Sandbox(Base):
    __tablename__ = "sandbox"
    __table_args__ = (Index("ix_sandbox_run_created", "run_id", "created_at"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"))
    attempt: Mapped[int]
    runtime_index: Mapped[int]
    generation: Mapped[int]
    client_key: Mapped[str] = mapped_column(String(200))
    state: Mapped[SandboxState] = mapped_column(EnumText(SandboxState))
    image: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(String(32), default="agent")
    hostname: Mapped[str] = mapped_column(String(200), default="")
    stop_reason: Mapped[str | None] = mapped_column(String(32))
    failure: Mapped[str | None] = mapped_column(String(32))
    failure_detail: Mapped[str] = mapped_column(Text, default="")
    labels: Mapped[dict[str, Any]]
    start_s: Mapped[float | None]
    created_at: Mapped[datetime]
    ready_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class ReportSequence(Base):
    """Batches that were accepted: the memory behind idempotent reports."""

    __tablename__ = "report_sequence"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]


class Rollout(Base):
    __tablename__ = "rollout"
    __table_args__ = (
        Index("ix_rollout_run_step", "run_id", "step"),
        Index("ix_rollout_run_ended", "run_id", "ended_at"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"))
    attempt: Mapped[int]
    step: Mapped[int]
    group: Mapped[str] = mapped_column(String(100))
    sample: Mapped[int]
    try_number: Mapped[int]
    task_id: Mapped[str] = mapped_column(String(200))
    validation: Mapped[bool] = mapped_column(default=False)
    state: Mapped[RolloutState] = mapped_column(EnumText(RolloutState))
    end: Mapped[RolloutEnd | None] = mapped_column(EnumText(RolloutEnd))
    invalid_reason: Mapped[InvalidReason | None] = mapped_column(EnumText(InvalidReason))
    detail: Mapped[str] = mapped_column(Text, default="")
    reward: Mapped[float | None]
    graded: Mapped[bool] = mapped_column(default=False)
    """Tests ran in a grading sandbox (an empty patch is scored without running any)."""
    turns_count: Mapped[int] = mapped_column(default=0)
    calls_parsed: Mapped[int] = mapped_column(default=0)
    calls_executed: Mapped[int] = mapped_column(default=0)
    calls_malformed: Mapped[int] = mapped_column(default=0)
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    response_tokens: Mapped[int] = mapped_column(default=0)
    trainable_tokens: Mapped[int] = mapped_column(default=0)
    policy_version: Mapped[int] = mapped_column(default=0)
    runtime_index: Mapped[int | None]
    runtime_generation: Mapped[int | None]
    sandbox_id: Mapped[str | None] = mapped_column(String(64))
    hostname: Mapped[str | None] = mapped_column(String(200))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]


class RolloutBody(Base):
    """The large part of a rollout: transcript, patch, grade, phases; zlib-compressed JSON."""

    __tablename__ = "rollout_body"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"), primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class StepMetrics(Base):
    """The trainer's metrics of a step; a later attempt that repeats a step has a row of its own."""

    __tablename__ = "step_metrics"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    metrics: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class Checkpoint(Base):
    __tablename__ = "checkpoint"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    complete: Mapped[bool]
    bytes: Mapped[int] = mapped_column(BigInteger)
    parts: Mapped[dict[str, Any]]
    detail: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[datetime]


class Finding(Base):
    __tablename__ = "finding"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), index=True)
    attempt: Mapped[int]
    code: Mapped[str] = mapped_column(String(64))
    severity: Mapped[str] = mapped_column(String(16))
    text: Mapped[str] = mapped_column(Text)
    step: Mapped[int | None]
    at: Mapped[datetime]


class Event(Base):
    """Audit log, cursor of the live stream, and source of webhooks, in one."""

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)
    kind: Mapped[str] = mapped_column(String(64), index=True)
    """``run.created``, ``run.state``, ``job.state``, ``runtime.state``, ``run.cancel_requested``,
    ``rollouts.reported``, ``checkpoint.reported``, ``finding.reported`` ..."""
    text: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
    actor: Mapped[str] = mapped_column(String(100), default="")


class WebhookEndpoint(Base):
    __tablename__ = "webhook_endpoint"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text)
    """Needed in clear to sign; shown once, never again."""
    events: Mapped[list[Any]]
    """Kinds it wants, for example ``run.failed``; ``*`` for all."""
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]


class Delivery(Base):
    __tablename__ = "delivery"
    __table_args__ = (UniqueConstraint("endpoint_id", "message_id"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoint.id"), index=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("event.id"))
    message_id: Mapped[str] = mapped_column(String(64))
    """The ``webhook-id`` header: the same for every try."""
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), index=True)
    """``waiting``, ``delivered``, ``given_up``."""
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None] = mapped_column(index=True)
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class DeliveryTry(Base):
    __tablename__ = "delivery_try"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), index=True)
    at: Mapped[datetime]
    status_code: Mapped[int | None]
    answer: Mapped[str] = mapped_column(Text, default="")
    """First 2 KB of the answer, or the error."""
    seconds: Mapped[float]

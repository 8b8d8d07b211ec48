"""Shapes of the public API, and nothing else."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.domain.states import (
    CloseReason,
    Desired,
    JobState,
    Reason,
    Role,
    RunState,
    RuntimeState,
)
from workers.contract.exit_record import ExitRecord
from workers.contract.reports import (
    CallCounts,
    Grade,
    InvalidReason,
    RolloutEnd,
    RolloutState,
    Turn,
)
from workers.contract.sandbox_api import Limit, SandboxState
from workers.contract.spec import RunKind, RunSpec

T = TypeVar("T")


class In(BaseModel):
    """Bodies that people send: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class ErrorOut(Out):
    error: str
    """A code for programs; a contract."""
    detail: str
    """Text for people; may change."""


class Page(Out, Generic[T]):
    items: list[T]
    next_cursor: str | None
    """Send it as ``cursor`` for the next page; null: this was the last."""


class ExperimentIn(In):
    name: str = Field(min_length=1, max_length=100)
    description: str = ""


class ExperimentOut(Out):
    id: str
    name: str
    description: str
    created_at: datetime
    runs: dict[RunState, int] = {}


class LaunchIn(In):
    spec: dict[str, Any]
    """The run's document, as in the YAML file."""
    sets: list[str] = []
    """``a.b=c``, as on the command line; wins over the document."""
    preset: str | dict[str, Any] | None = None
    """Name of a preset of this installation, or a document that serves as one."""


class RunOut(Out):
    id: str
    name: str
    experiment: str
    experiment_id: str
    sweep_id: str | None
    sweep_index: int | None
    kind: RunKind
    desired: Desired
    state: RunState
    reason: Reason | None
    reason_detail: str
    attempt: int
    phase: str
    """What the trainer says that it does now."""
    step: int
    steps_total: int
    created_by: str
    created_at: datetime
    state_since: datetime
    started_at: datetime | None
    ended_at: datetime | None


class TruthOut(Out):
    """One of the four truths, never inferred from another one."""

    key: Literal["jobs", "tools", "graded", "signal"]
    label: str
    verdict: Literal["yes", "no", "wait"]
    text: str


class TotalsOut(Out):
    """Sums over all training rollouts of the run."""

    rollouts: int
    scored: int
    invalid: int
    turns: int
    parsed: int
    executed: int
    malformed: int
    graded: int
    trainable_tokens: int


class AttemptOut(Out):
    number: int
    directory: str
    resume_checkpoint: str | None
    resume_step: int
    reason: Reason | None
    reason_detail: str
    started_at: datetime
    ended_at: datetime | None
    trainer_registered_at: datetime | None
    trainer_heartbeat_at: datetime | None
    trainer_hostname: str


class JobOut(Out):
    name: str
    attempt: int
    role: Role
    index: int
    generation: int
    state: JobState
    scheduler_id: str | None
    raw_state: str
    pending_reason: str
    detail: str
    exit_code: int | None
    signal: int | None
    nodes: str
    exit_record: ExitRecord | None
    state_since: datetime
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


class RunDetailOut(RunOut):
    spec: RunSpec
    origins: dict[str, str]
    """Dotted key of the spec to the layer that set it."""
    truths: dict[str, TruthOut]
    """By key; the four of them are never inferred from each other."""
    totals: TotalsOut
    jobs: list[JobOut]
    attempts: list[AttemptOut]


class PlanOut(Out):
    problems: list[str]
    warnings: list[str]
    numbers: dict[str, int]


class DryRunOut(Out):
    spec: RunSpec
    origins: dict[str, str]
    plan: PlanOut
    scripts: dict[str, str]
    """Batch script per role."""


class EventOut(Out):
    id: int
    at: datetime
    run_id: str | None
    kind: str
    text: str
    data: dict[str, Any]
    actor: str


class StepOut(Out):
    number: int
    attempt: int
    reward: float | None
    rollouts: int
    scored: int
    invalid: int
    executed: int
    graded: int
    trainable_tokens: int
    groups: int
    groups_with_advantage: int
    grad_norm: float | None
    seconds: float | None


class MetricsOut(Out):
    attempt: int
    step: int
    metrics: dict[str, float | None]
    at: datetime


class RolloutOut(Out):
    id: str
    run_id: str
    attempt: int
    step: int
    group: str
    sample: int
    try_number: int
    task_id: str
    validation: bool
    state: RolloutState
    end: RolloutEnd | None
    invalid_reason: InvalidReason | None
    detail: str
    reward: float | None
    graded: bool
    turns_count: int
    calls_parsed: int
    calls_executed: int
    calls_malformed: int
    prompt_tokens: int
    response_tokens: int
    trainable_tokens: int
    policy_version: int
    runtime_index: int | None
    runtime_generation: int | None
    sandbox_id: str | None
    hostname: str | None
    started_at: datetime
    ended_at: datetime


class Body(Out):
    """``turns``, ``patch`` and the grade's texts were written by a model or a program: hostile."""

    turns: list[Turn]
    patch: str
    grade: Grade | None
    calls: CallCounts
    phase_s: dict[str, float]


class RolloutDetailOut(Body, RolloutOut):
    unreadable: str
    """Why the stored transcript could not be read; empty when it could."""


class CheckpointOut(Out):
    attempt: int
    step: int
    path: str
    complete: bool
    bytes: int
    parts: dict[str, bool]
    detail: str
    at: datetime


class FindingOut(Out):
    id: int
    attempt: int
    code: str
    severity: Literal["info", "warning", "error"]
    text: str
    step: int | None
    at: datetime


class RuntimeOut(Out):
    run_id: str
    attempt: int
    index: int
    generation: int
    job_name: str
    state: RuntimeState
    close_reason: CloseReason | None
    url: str
    hostname: str
    slots: int
    slots_used: int
    waiting: int
    engine: str
    limits: list[Limit]
    registered_at: datetime | None
    heartbeat_at: datetime | None
    closed_at: datetime | None


class SandboxOut(Out):
    id: str
    run_id: str
    attempt: int
    runtime_index: int
    generation: int
    client_key: str
    state: SandboxState
    image: str
    purpose: str
    hostname: str
    stop_reason: str | None
    failure: str | None
    failure_detail: str
    labels: dict[str, str]
    start_s: float | None
    created_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None


class LogOut(Out):
    job: str
    text: str
    offset: int
    next_offset: int
    size: int
    exists: bool
    ended: bool


class SweepIn(In):
    spec: dict[str, Any]
    """The base document."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    """Dotted key of the spec to its values; the last key varies fastest."""
    parallel: int = Field(default=1, ge=1, le=1000)
    """How many of the runs may be under way at once."""
    name: str | None = Field(default=None, min_length=1, max_length=100)
    preset: str | dict[str, Any] | None = None


class SweepOut(Out):
    id: str
    name: str
    experiment: str
    parallel: int
    grid: dict[str, list[Any]]
    created_at: datetime
    runs: dict[RunState, int]


class SweepRunOut(Out):
    run_id: str
    index: int | None
    name: str
    values: dict[str, Any]
    state: RunState
    reason: Reason | None
    first_reward: float | None
    """Mean of the first fifth of the steps."""
    final_reward: float | None
    """Mean of the last fifth of the steps."""


class SweepDetailOut(SweepOut):
    points: list[SweepRunOut]

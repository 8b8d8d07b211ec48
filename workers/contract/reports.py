"""What a trainer reports: facts, in numbered batches, repeatable without harm."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from workers.contract.base import Message


class RolloutState(StrEnum):
    QUEUED = "QUEUED"
    ACQUIRING = "ACQUIRING"
    RUNNING = "RUNNING"
    GRADING = "GRADING"
    SCORED = "SCORED"
    INVALID = "INVALID"
    CANCELLED = "CANCELLED"


class RolloutEnd(StrEnum):
    """How the agent's part ended; set where it happens, never parsed from text."""

    FINISHED = "finished"
    MAX_STEPS = "max_steps"
    MAX_TOKENS = "max_tokens"
    WALL_TIME = "wall_time"
    STUCK = "stuck"


class InvalidReason(StrEnum):
    """Infrastructure failures. An invalid rollout carries no reward and trains nothing."""

    SANDBOX_LOST = "sandbox_lost"
    IMAGE_FAILED = "image_failed"
    NO_TESTS = "no_tests"
    GATEWAY_FAILED = "gateway_failed"
    GRADER_FAILED = "grader_failed"
    FENCED = "fenced"
    AUDIT_FAILED = "audit_failed"


class CallCounts(Message):
    """The audit of one rollout's tool calls."""

    turns: int = 0
    """Model turns: each was an offer to call a tool."""
    parsed: int = 0
    executed: int = 0
    """Ran in the sandbox, whatever their exit code."""
    malformed: dict[str, int] = Field(default_factory=dict)
    """By kind: ``no_call``, ``no_name``, ``no_end_tag``, ``unknown_tool``, ``bad_parameter``."""


class Turn(Message):
    """One entry of a transcript, in order. ``text`` is hostile: the model or a program wrote it."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    tool: str | None = None
    command: str | None = None
    exit_code: int | None = None
    timed_out: bool = False
    hostname: str | None = None
    """Host name of the sandbox that executed the command."""
    seconds: float | None = None
    tokens: int = 0
    trainable: bool = False


class TestResult(Message):
    name: str
    passed: bool
    detail: str = ""


class Grade(Message):
    grader: str
    """Name and version of the grader."""
    passed: bool
    tests: tuple[TestResult, ...] = ()
    exit_code: int | None = None
    seconds: float = 0.0
    log_tail: str = ""
    sandbox_id: str | None = None
    """The fresh container in which the tests ran; None when an empty patch made it needless."""


class RolloutReport(Message):
    kind: Literal["rollout"] = "rollout"
    rollout_id: str
    step: int
    """The optimiser step that is being sampled for, from 1; 0 for evaluation before training."""
    group: str
    """All samples of one prompt in one step share it."""
    sample: int
    try_number: int = 1
    task_id: str
    validation: bool = False
    state: RolloutState
    """SCORED, INVALID or CANCELLED."""
    end: RolloutEnd | None = None
    invalid_reason: InvalidReason | None = None
    detail: str = ""
    reward: float | None = None
    """None unless SCORED."""
    grade: Grade | None = None
    patch: str = ""
    calls: CallCounts = CallCounts()
    turns: tuple[Turn, ...] = ()
    prompt_tokens: int = 0
    response_tokens: int = 0
    trainable_tokens: int = 0
    policy_version: int = 0
    runtime_index: int | None = None
    runtime_generation: int | None = None
    sandbox_id: str | None = None
    hostname: str | None = None
    """The sandbox's own host name, as a command inside it printed it."""
    started_at: str
    ended_at: str
    phase_s: dict[str, float] = Field(default_factory=dict)
    """Seconds per phase: ``acquire``, ``setup``, ``policy``, ``tools``, ``patch``, ``grade``."""


class StepReport(Message):
    """The trainer's own metrics of one optimiser step."""

    kind: Literal["step"] = "step"
    step: int
    metrics: dict[str, float | None]
    """As the trainer names them; None where the trainer printed NaN (a red event)."""
    at: str


class CheckpointReport(Message):
    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    complete: bool
    bytes: int
    parts: dict[str, bool] = Field(default_factory=dict)
    """Which of the parts that the integration demands are there."""
    detail: str = ""
    at: str


class PhaseReport(Message):
    """The trainer entered a phase: ``starting``, ``sampling``, ``updating``, ``saving`` ..."""

    kind: Literal["phase"] = "phase"
    phase: str
    step: int = 0
    seconds: float | None = None
    """Duration of the phase, where it is known (it has ended)."""
    at: str


class FindingReport(Message):
    """A symptom that a person should see, with its evidence."""

    kind: Literal["finding"] = "finding"
    code: str
    severity: Literal["info", "warning", "error"]
    text: str
    step: int | None = None
    at: str


Report = RolloutReport | StepReport | CheckpointReport | PhaseReport | FindingReport


class ReportBatch(Message):
    """``POST /api/internal/reports`` with the trainer token.

    Idempotent by (attempt, source, sequence): a repeat is accepted and changes nothing. 410 when
    the attempt is over.
    """

    contract_version: int
    run_id: str
    attempt: int
    source: str = Field(pattern=r"^[a-z0-9_.-]{1,64}$")
    """Who numbers the batches: ``rollouts-<pid>-<start>``, ``sidecar-<start>``."""
    sequence: int = Field(ge=1)
    reports: tuple[Report, ...]


class ReportAnswer(Message):
    accepted: bool
    """False: this sequence had been accepted before."""

"""The Scheduler port: the only thing about schedulers that the control plane knows.

Three outcomes of looking: seen, absent, unreachable. Three outcomes of submitting: accepted,
rejected, ambiguous. Adapters raise the errors below and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NewType, Protocol

SlurmJobId = NewType("SlurmJobId", str)


class SlurmState(StrEnum):
    """A scheduler's word for a job, normalised. COMPLETING counts as RUNNING: it is not final."""

    HELD = "HELD"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"
    UNKNOWN = "UNKNOWN"
    """A raw state that we have no name for: not final, changes nothing, is logged."""


FINAL_STATES = frozenset(
    {
        SlurmState.COMPLETED,
        SlurmState.FAILED,
        SlurmState.CANCELLED,
        SlurmState.TIMEOUT,
        SlurmState.OUT_OF_MEMORY,
        SlurmState.PREEMPTED,
        SlurmState.NODE_FAIL,
    }
)


class SubmitCategory(StrEnum):
    """Why a submission was refused for good."""

    PARTITION = "partition"
    ACCOUNT = "account"
    QOS = "qos"
    RESOURCES = "resources"
    TIME_LIMIT = "time_limit"
    SCRIPT = "script"
    PERMISSION = "permission"
    OTHER = "other"


class SchedulerError(Exception):
    """The scheduler did not do what it was asked."""


class SchedulerUnreachable(SchedulerError):
    """It did not answer, or not now, and nothing happened. Look again later; change no state."""


class SubmitRejected(SchedulerError):
    """It refused this job, and would refuse it again. ``text`` is its own wording."""

    def __init__(self, category: SubmitCategory, text: str) -> None:
        super().__init__(text)
        self.category = category
        self.text = text


class SubmitAmbiguous(SchedulerError):
    """The job may exist, or may appear later: look it up by name until the settle window ends."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


@dataclass(frozen=True)
class Resources:
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    cpus: int = 1
    memory_mb: int = 2048
    gres: str | None = None
    time_limit_s: int = 3600
    exclude_nodes: tuple[str, ...] = ()
    constraint: str | None = None


@dataclass(frozen=True)
class BatchJob:
    """One job to submit. Its ``name`` is its identity; no field may hold a secret."""

    name: str
    command: tuple[str, ...]
    """argv of the worker."""
    workdir: Path
    log_path: Path
    """stdout and stderr together, appended."""
    exit_record: Path
    """The script writes a minimal record here if the worker ended without leaving one."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """The whole environment of the worker besides PATH, HOME, LANG and the scheduler's own."""
    resources: Resources = Resources()
    comment: str = ""
    """For people who look at the queue. Plain letters, digits and ``._:;=,/@+-`` only."""
    exit_record_fields: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    """What the minimal record says besides ``result`` (failed), ``exit_code`` and ``detail``."""


@dataclass(frozen=True)
class JobSnapshot:
    job_id: SlurmJobId
    name: str
    state: SlurmState
    raw_state: str
    reason: str = ""
    """Pending reason or the reason of the end, in the scheduler's words."""
    exit_code: int | None = None
    signal: int | None = None
    nodes: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Scheduler(Protocol):
    """Blocking; every call has a deadline longer than the scheduler's own."""

    @property
    def kind(self) -> str:
        """``cli``, ``pyslurm``, ``local`` or ``fake``: shown to people."""
        ...

    def submit(self, job: BatchJob) -> SlurmJobId:
        """Queue ``job`` *held*. Not idempotent: look ``job.name`` up before repeating.

        Raises SubmitRejected (for good), SubmitAmbiguous (may still appear),
        SchedulerUnreachable (it did not happen).
        """
        ...

    def release(self, job_id: SlurmJobId) -> None:
        """Let a held job run. Harmless when repeated, also on a job that runs, ended or is gone.

        Raises SchedulerUnreachable.
        """
        ...

    def cancel(self, name: str, job_ids: Sequence[SlurmJobId] = ()) -> None:
        """Ask for the end of every job of this name and of these ids. A quiet return proves
        nothing: only the next snapshot does. Harmless when repeated.

        Raises SchedulerUnreachable.
        """
        ...

    def snapshot(self, prefix: str = "") -> tuple[JobSnapshot, ...]:
        """Jobs of this user whose name starts with ``prefix``: held, waiting, running, and ended
        ones as long as the scheduler remembers them. An empty answer means: none.

        Raises SchedulerUnreachable; an outage is never an empty answer.
        """
        ...

    def history(self, names: Sequence[str], since: datetime) -> tuple[JobSnapshot, ...]:
        """What accounting knows of jobs that left the snapshot. May lag by seconds, may be empty
        (accounting off): silence proves nothing.

        Raises SchedulerUnreachable.
        """
        ...

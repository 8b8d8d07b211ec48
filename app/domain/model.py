"""Pure views of runs, jobs and runtimes; what can be observed; what can be decided."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from app.domain.states import (
    JOB_FINAL,
    CloseReason,
    Desired,
    JobState,
    Reason,
    Role,
    RunState,
    RuntimeState,
)
from workers.contract.exit_record import ExitRecord
from workers.contract.spec import RunKind, RunSpec


@dataclass(frozen=True)
class Copy:
    """One job that the scheduler has under one of our names."""

    job_id: str
    state: JobState | None
    """HELD, QUEUED, RUNNING or an ended state; None: a raw state that we have no name for."""
    raw_state: str = ""
    pending_reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    nodes: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Seen:
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class Absent:
    """The controller itself answered, and has no job of this name."""

    accounted: bool = True
    """Accounting answered too and knows no end of it. False: it could not be asked."""


@dataclass(frozen=True)
class Unreachable:
    """Nobody answered. Not a fact about the job."""


Observation = Seen | Absent | Unreachable


@dataclass(frozen=True)
class JobView:
    name: str
    attempt: int
    role: Role
    index: int
    generation: int
    state: JobState
    state_since: datetime
    scheduler_id: str | None = None
    raw_state: str = ""
    pending_reason: str = ""
    detail: str = ""
    exit_code: int | None = None
    signal: int | None = None
    nodes: str = ""
    exit_record: ExitRecord | None = None
    not_before: datetime | None = None
    absent_since: datetime | None = None
    """First of an unbroken row of Absent observations."""
    cancel_requested_at: datetime | None = None
    submit_started_at: datetime | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duplicates: tuple[str, ...] = ()
    """Further copies under this name, seen just now. Never stored."""

    @property
    def final(self) -> bool:
        return self.state in JOB_FINAL

    def to(self, state: JobState, now: datetime) -> "JobView":
        return self if state is self.state else replace(self, state=state, state_since=now)


@dataclass(frozen=True)
class RuntimeView:
    index: int
    generation: int
    job_name: str
    state: RuntimeState
    close_reason: CloseReason | None = None
    heartbeat_at: datetime | None = None
    closed_at: datetime | None = None


@dataclass(frozen=True)
class AttemptView:
    number: int
    started_at: datetime
    directory: str = ""
    """Empty until it has been made."""
    runtime_token_hash: str | None = None
    trainer_token_hash: str | None = None
    resume_checkpoint: str | None = None
    resume_step: int = 0
    prepared_at: datetime | None = None
    reason: Reason | None = None
    reason_detail: str = ""
    ended_at: datetime | None = None
    trainer_registered: bool = False
    saved_checkpoint: bool = False
    """A complete checkpoint of this attempt is newer than the one it resumed from."""


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint, as it was reported."""

    path: str
    step: int


@dataclass(frozen=True)
class RunView:
    """A run with the jobs and runtimes of its current attempt, and what was observed of them."""

    id: str
    installation: str
    kind: RunKind
    spec: RunSpec
    desired: Desired
    state: RunState
    state_since: datetime
    version: int
    attempt: AttemptView | None
    """None before the first attempt began."""
    attempt_number: int = 1
    attempts_without_checkpoint: int = 0
    reason: Reason | None = None
    reason_detail: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    jobs: tuple[JobView, ...] = ()
    runtimes: tuple[RuntimeView, ...] = ()
    avoid_nodes: tuple[str, ...] = ()
    """Nodes on which a preflight of this run failed."""
    resumable: tuple[Saved, ...] = ()
    """Of earlier attempts, the newest first; known until the attempt is prepared."""
    admitted: bool = True
    reachable: bool = True
    """The scheduler answered the look that this view rests on."""
    probe_error: str = ""
    """Attached runs: why the foreign runtime cannot be used; empty when it can."""

    @property
    def prepared(self) -> bool:
        return self.attempt is not None and self.attempt.prepared_at is not None

    @property
    def cancelled(self) -> bool:
        return self.desired is Desired.CANCELLED

    @property
    def trainer(self) -> JobView | None:
        return next((job for job in self.jobs if job.role is Role.TRAINER), None)

    @property
    def runtime_jobs(self) -> tuple[JobView, ...]:
        return tuple(job for job in self.jobs if job.role is Role.RUNTIME)

    def job(self, name: str) -> JobView:
        return next(job for job in self.jobs if job.name == name)

    def with_job(self, new: JobView) -> "RunView":
        jobs = tuple(new if job.name == new.name else job for job in self.jobs)
        return replace(self, jobs=jobs)

    def stored(self) -> "RunView":
        """Without what was only seen: two views that agree in this need no writing."""
        jobs = tuple(replace(job, duplicates=()) for job in self.jobs)
        return replace(
            self,
            jobs=jobs,
            admitted=True,
            reachable=True,
            probe_error="",
            avoid_nodes=(),
            resumable=(),
        )

    def newest_runtimes(self) -> tuple[RuntimeView, ...]:
        """The highest generation of each index."""
        newest = {r.index: r for r in sorted(self.runtimes, key=lambda r: r.generation)}
        return tuple(newest.values())


@dataclass(frozen=True)
class PrepareAttempt:
    """Make the attempt's directory, attempt file and tokens."""


@dataclass(frozen=True)
class Submit:
    name: str


@dataclass(frozen=True)
class Release:
    name: str


@dataclass(frozen=True)
class Cancel:
    """End every job of this name."""

    name: str


@dataclass(frozen=True)
class CancelCopies:
    """End these copies, and not the recorded job of the same name."""

    name: str
    job_ids: tuple[str, ...]


@dataclass(frozen=True)
class Abandon:
    """This job was never submitted, and will not be."""

    name: str


@dataclass(frozen=True)
class Close:
    index: int
    generation: int
    reason: CloseReason


@dataclass(frozen=True)
class Replace:
    """Plan the next generation of this runtime index."""

    index: int


Effect = PrepareAttempt | Submit | Release | Cancel | CancelCopies | Abandon | Close | Replace


@dataclass(frozen=True)
class NextAttempt:
    not_before: datetime
    attempts_without_checkpoint: int


@dataclass(frozen=True)
class Decision:
    """What to do about a run now. An empty one: wait."""

    to: RunState | None = None
    reason: Reason | None = None
    detail: str = ""
    effects: tuple[Effect, ...] = ()
    next_attempt: NextAttempt | None = None


@dataclass(frozen=True)
class Policy:
    """Numbers of the installation, and since when heartbeats can be trusted to arrive."""

    settle_window: timedelta = timedelta(seconds=30)
    vanish_grace: timedelta = timedelta(seconds=120)
    stale_after: timedelta = timedelta(seconds=45)
    lost_after: timedelta = timedelta(seconds=180)
    record_grace: timedelta = timedelta(seconds=10)
    """An exit record may show up later than the end of its job: shared folders cache."""
    cancel_again: timedelta = timedelta(seconds=15)
    listening_since: datetime | None = field(default=None)
    """Some worker has been heard without a break since then; None: no worker is heard, so that
    silence may be our own deafness (the web process is down) and proves nothing."""

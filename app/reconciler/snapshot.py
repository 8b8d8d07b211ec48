"""One look at the scheduler per tick; what it cannot tell becomes Unreachable."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.model import Absent, Copy, JobView, Observation, Seen, Unreachable
from app.domain.states import JOB_ENDED, JobState
from slurm.port import JobSnapshot, Scheduler, SchedulerUnreachable, SlurmState

log = logging.getLogger(__name__)

_STATES: dict[SlurmState, JobState | None] = {
    SlurmState.HELD: JobState.HELD,
    SlurmState.PENDING: JobState.QUEUED,
    SlurmState.RUNNING: JobState.RUNNING,
    SlurmState.COMPLETED: JobState.SUCCEEDED,
    SlurmState.FAILED: JobState.FAILED,
    SlurmState.CANCELLED: JobState.CANCELLED,
    SlurmState.TIMEOUT: JobState.TIMED_OUT,
    SlurmState.OUT_OF_MEMORY: JobState.OUT_OF_MEMORY,
    SlurmState.PREEMPTED: JobState.PREEMPTED,
    SlurmState.NODE_FAIL: JobState.NODE_FAILED,
    SlurmState.UNKNOWN: None,
}
_CLOCK_SKEW = timedelta(hours=1)
"""Accounting is asked from this much before the submission: its clock is not ours."""


@dataclass(frozen=True)
class Missing:
    """An accepted job that the queue may no longer show."""

    name: str
    scheduler_id: str
    submitted_at: datetime


@dataclass(frozen=True)
class Snapshot:
    at: datetime
    error: str = ""
    """Why the scheduler could not be asked; empty when it answered."""
    copies: Mapping[str, tuple[Copy, ...]] | None = None
    ends: Mapping[str, Copy] | None = None
    """Ends that accounting knows, by job name; None: accounting did not answer."""

    @property
    def reachable(self) -> bool:
        return self.copies is not None

    def of(self, job: JobView) -> Observation:
        if self.copies is None:
            return Unreachable()
        if copies := self.copies.get(job.name):
            return self._with_end(job, copies)
        if job.submit_started_at is not None and job.submit_started_at > self.at:
            return Unreachable()  # an older look knows nothing of a newer submission
        if end := self._end(job):
            return Seen((end,))
        return Absent(accounted=self.ends is not None)

    def _with_end(self, job: JobView, copies: tuple[Copy, ...]) -> Seen:
        """Only copies are left in the queue: the end of the recorded job is worth more."""
        if any(copy.job_id == job.scheduler_id for copy in copies):
            return Seen(copies)
        end = self._end(job)
        return Seen((*copies, end) if end else copies)

    def _end(self, job: JobView) -> Copy | None:
        end = (self.ends or {}).get(job.name)
        return end if end is not None and end.job_id == job.scheduler_id else None

    def live(self) -> dict[str, tuple[str, ...]]:
        """Ids of everything that has not ended, by name."""
        found = {
            name: tuple(c.job_id for c in copies if c.state not in JOB_ENDED)
            for name, copies in (self.copies or {}).items()
        }
        return {name: ids for name, ids in found.items() if ids}


def look(scheduler: Scheduler, prefix: str, accepted: Sequence[Missing], now: datetime) -> Snapshot:
    """The queue, and accounting at most once, for accepted jobs that the queue does not show."""
    try:
        copies = _by_name(scheduler.snapshot(prefix))
    except SchedulerUnreachable as error:
        return Snapshot(at=now, error=str(error) or "the scheduler does not answer")
    gone = [job for job in accepted if not _shows(copies, job)]
    return Snapshot(at=now, copies=copies, ends=_ends(scheduler, gone))


def _shows(copies: Mapping[str, tuple[Copy, ...]], job: Missing) -> bool:
    return any(copy.job_id == job.scheduler_id for copy in copies.get(job.name, ()))


def _ends(scheduler: Scheduler, gone: Sequence[Missing]) -> dict[str, Copy] | None:
    if not gone:
        return {}
    since = min(job.submitted_at for job in gone) - _CLOCK_SKEW
    try:
        found = scheduler.history([job.name for job in gone], since)
    except SchedulerUnreachable as error:
        log.warning("accounting does not answer: %s", error)
        return None
    ids = {(job.name, job.scheduler_id) for job in gone}
    copies = {seen.name: _copy(seen) for seen in found if (seen.name, seen.job_id) in ids}
    return {name: copy for name, copy in copies.items() if copy.state in JOB_ENDED}


def _by_name(found: Iterable[JobSnapshot]) -> dict[str, tuple[Copy, ...]]:
    names: defaultdict[str, list[Copy]] = defaultdict(list)
    for seen in found:
        names[seen.name].append(_copy(seen))
    return {name: tuple(copies) for name, copies in names.items()}


def _copy(seen: JobSnapshot) -> Copy:
    if seen.state is SlurmState.UNKNOWN:
        log.warning("job %s (%s): unknown state %r", seen.name, seen.job_id, seen.raw_state)
    return Copy(
        job_id=seen.job_id,
        state=_STATES[seen.state],
        raw_state=seen.raw_state,
        pending_reason=seen.reason,
        exit_code=seen.exit_code,
        signal=seen.signal,
        nodes=seen.nodes,
        started_at=seen.started_at,
        ended_at=seen.ended_at,
    )

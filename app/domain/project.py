"""Fold what was observed into what is known of a job. Pure."""

from dataclasses import replace
from datetime import datetime

from app.domain.model import Absent, Copy, JobView, Observation, Policy, Seen, Unreachable
from app.domain.states import JOB_ENDED, JobState
from workers.contract.exit_record import ExitRecord, ExitResult

# Order in which a job moves; the scheduler's word never moves it back.
_RANK = {
    JobState.PLANNED: 0,
    JobState.SUBMITTING: 1,
    JobState.HELD: 2,
    JobState.QUEUED: 3,
    JobState.RUNNING: 4,
}
_GOOD_ENDS = frozenset({ExitResult.COMPLETED, ExitResult.DRAINED})


def project(
    job: JobView,
    seen: Observation,
    record: ExitRecord | None,
    now: datetime,
    policy: Policy,
) -> JobView:
    """The job as it is known after this look.

    `record` is the worker's exit record where one lies in the attempt's directory.
    """
    if record is not None and _belongs(record, job):
        job = replace(job, exit_record=record)
    if job.final:
        return job
    match seen:
        case Unreachable():
            # An unbroken row of absences is broken: whoever froze may still hold our request.
            return replace(job, absent_since=None)
        case Absent():
            return _absent(job, seen, now, policy)
        case Seen(copies):
            return _seen(job, copies, seen, now, policy)


def settled(job: JobView, now: datetime, policy: Policy) -> bool:
    """An unanswered submission can no longer produce a job (but see the orphan sweep)."""
    return (
        job.state is JobState.SUBMITTING
        and job.absent_since is not None
        and now - job.absent_since >= policy.settle_window
    )


def _seen(
    job: JobView, copies: tuple[Copy, ...], seen: Observation, now: datetime, policy: Policy
) -> JobView:
    if job.state is JobState.PLANNED:
        # An earlier, unanswered submission landed after all: adopt it from SUBMITTING.
        return replace(job.to(JobState.SUBMITTING, now), submit_started_at=now)
    recorded = job.scheduler_id or min((c.job_id for c in copies), key=id_order)
    mine = next((c for c in copies if c.job_id == recorded), None)
    others = tuple(c.job_id for c in copies if c.job_id != recorded and c.state not in JOB_ENDED)
    if mine is None:
        return replace(_absent(job, Absent(), now, policy), duplicates=others)
    known = replace(
        job,
        scheduler_id=recorded,
        absent_since=None,
        duplicates=others,
        submitted_at=job.submitted_at or now,
    )
    return _advance(known, mine, now)


def _advance(job: JobView, copy: Copy, now: datetime) -> JobView:
    job = replace(
        job,
        raw_state=copy.raw_state,
        pending_reason=copy.pending_reason,
        nodes=copy.nodes or job.nodes,
        started_at=copy.started_at or job.started_at,
    )
    if copy.state is None:
        # Accepted, whatever the unknown word means.
        return job.to(JobState.HELD, now) if job.state is JobState.SUBMITTING else job
    if copy.state in JOB_ENDED:
        return replace(
            job.to(copy.state, now),
            exit_code=copy.exit_code,
            signal=copy.signal,
            ended_at=copy.ended_at or now,
        )
    if _RANK[copy.state] <= _RANK[job.state]:
        return job
    if copy.state is JobState.RUNNING:
        job = replace(job, started_at=job.started_at or now)
    return job.to(copy.state, now)


def _absent(job: JobView, seen: Absent, now: datetime, policy: Policy) -> JobView:
    if job.state is JobState.PLANNED:
        return job
    job = replace(job, absent_since=job.absent_since or now)
    if job.state is JobState.SUBMITTING:
        return job
    if job.exit_record is not None:
        good = job.exit_record.result in _GOOD_ENDS
        return _ended(job, JobState.SUCCEEDED if good else JobState.FAILED, now)
    assert job.absent_since is not None
    if seen.accounted and now - job.absent_since >= policy.vanish_grace:
        return _ended(job, JobState.VANISHED, now)
    return job


def _ended(job: JobView, state: JobState, now: datetime) -> JobView:
    return replace(job.to(state, now), ended_at=now)


def _belongs(record: ExitRecord, job: JobView) -> bool:
    """An old attempt or generation must change nothing."""
    return (record.attempt, record.role, record.index, record.generation) == (
        job.attempt,
        job.role.value,
        job.index,
        job.generation,
    )


def id_order(job_id: str) -> tuple[int, str]:
    """Numbers as text, in the order of the numbers."""
    return len(job_id), job_id

"""Why an ended job ended, in our words: scheduler state and exit record together. Pure."""

from dataclasses import dataclass
from datetime import datetime

from app.domain.model import JobView, Policy
from app.domain.states import JobState, Reason, Role
from workers.contract.exit_record import ExitResult

_BY_STATE = {
    JobState.REJECTED: Reason.SUBMIT_REJECTED,
    JobState.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    JobState.PREEMPTED: Reason.PREEMPTED,
    JobState.NODE_FAILED: Reason.NODE_FAILED,
    JobState.TIMED_OUT: Reason.TIME_LIMIT,
    JobState.VANISHED: Reason.JOB_VANISHED,
}
_WORDS = {
    Reason.SUBMIT_REJECTED: "was refused by the scheduler",
    Reason.OUT_OF_MEMORY: "ran out of memory",
    Reason.PREEMPTED: "was preempted",
    Reason.NODE_FAILED: "lost its node",
    Reason.TIME_LIMIT: "reached its time limit",
    Reason.JOB_VANISHED: "vanished: neither the queue, accounting nor an exit record knows its end",
    Reason.PREFLIGHT_FAILED: "found its node unfit",
    Reason.EXIT_RECORD_MISSING: "ended without an exit record",
    Reason.TRAINER_COMPLETED: "completed",
    Reason.RUNTIME_COMPLETED: "completed",
}


@dataclass(frozen=True)
class End:
    reason: Reason
    detail: str


def end_of(job: JobView, now: datetime, policy: Policy) -> End | None:
    """None while the job has not ended, or its exit record may still show up.

    SUCCEEDED by the scheduler alone is no success: a trapped signal looks the same. The exit
    record decides, and a completed one counts however the scheduler saw the end.
    """
    if not job.final:
        return None
    awaited = job.exit_record is None and job.state not in _BY_STATE
    if awaited and now - job.state_since < policy.record_grace:
        return None
    reason = _reason(job)
    return End(reason, _detail(job, reason))


def _reason(job: JobView) -> Reason:
    result = job.exit_record.result if job.exit_record else None
    trainer = job.role is Role.TRAINER
    if result is ExitResult.COMPLETED or (result is ExitResult.DRAINED and _drained_well(job)):
        return Reason.TRAINER_COMPLETED if trainer else Reason.RUNTIME_COMPLETED
    if job.state in _BY_STATE:
        return _BY_STATE[job.state]
    if result is ExitResult.PREFLIGHT_FAILED:
        return Reason.PREFLIGHT_FAILED
    if not trainer:
        return Reason.RUNTIME_FAILED
    if result is None and job.state is JobState.SUCCEEDED:
        return Reason.EXIT_RECORD_MISSING
    return Reason.TRAINER_FAILED


def _drained_well(job: JobView) -> bool:
    """A runtime that was told to leave, and left, did its work; a trainer did not finish its."""
    return job.role is Role.RUNTIME and job.state is JobState.SUCCEEDED


def _detail(job: JobView, reason: Reason) -> str:
    who = f"{job.role} job {job.name}" + (f" (id {job.scheduler_id})" if job.scheduler_id else "")
    if reason in (Reason.TRAINER_FAILED, Reason.RUNTIME_FAILED):
        what = _failure(job)
    else:
        what = _WORDS[reason]
    said = job.exit_record.detail if job.exit_record else job.detail
    return f"{who} {what}" + (f": {said}" if said else "")


def _failure(job: JobView) -> str:
    if job.state is JobState.CANCELLED:
        return "was cancelled outside Skydeck"
    if job.signal:
        return f"was killed by signal {job.signal}"
    if job.exit_code:
        return f"failed with exit code {job.exit_code}"
    return "ended" if job.state is JobState.SUCCEEDED else "failed"

"""States, the transitions that are allowed, and why attempts end."""

from enum import StrEnum


class RunState(StrEnum):
    PENDING = "PENDING"
    STARTING_RUNTIME = "STARTING_RUNTIME"
    STARTING_TRAINER = "STARTING_TRAINER"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Desired(StrEnum):
    RUNNING = "RUNNING"
    CANCELLED = "CANCELLED"


class JobState(StrEnum):
    PLANNED = "PLANNED"
    SUBMITTING = "SUBMITTING"
    HELD = "HELD"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"
    PREEMPTED = "PREEMPTED"
    NODE_FAILED = "NODE_FAILED"
    VANISHED = "VANISHED"
    REJECTED = "REJECTED"
    NOT_SUBMITTED = "NOT_SUBMITTED"


class Role(StrEnum):
    RUNTIME = "runtime"
    TRAINER = "trainer"


class RuntimeState(StrEnum):
    EXPECTED = "EXPECTED"
    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    CLOSED = "CLOSED"


class CloseReason(StrEnum):
    JOB_ENDED = "job_ended"
    HEARTBEAT_LOST = "heartbeat_lost"
    DRAINED = "drained"
    SUPERSEDED = "superseded"
    ATTEMPT_OVER = "attempt_over"


class Reason(StrEnum):
    """Why an attempt stopped. Fixed when the run enters STOPPING."""

    TRAINER_COMPLETED = "trainer_completed"
    RUNTIME_COMPLETED = "runtime_completed"
    CANCELLED_BY_USER = "cancelled_by_user"
    SUBMIT_REJECTED = "submit_rejected"
    OUT_OF_MEMORY = "out_of_memory"
    QUEUE_TIMEOUT = "queue_timeout"
    PREEMPTED = "preempted"
    NODE_FAILED = "node_failed"
    PREFLIGHT_FAILED = "preflight_failed"
    TIME_LIMIT = "time_limit"
    START_TIMEOUT = "start_timeout"
    RUNTIME_FAILED = "runtime_failed"
    RUNTIME_LOST = "runtime_lost"
    JOB_VANISHED = "job_vanished"
    TRAINER_FAILED = "trainer_failed"
    EXIT_RECORD_MISSING = "exit_record_missing"
    INTERNAL_ERROR = "internal_error"


_R = RunState
_J = JobState

RUN_ALLOWED: dict[RunState, frozenset[RunState]] = {
    _R.PENDING: frozenset({_R.STARTING_RUNTIME, _R.STARTING_TRAINER, _R.STOPPING}),
    _R.STARTING_RUNTIME: frozenset({_R.STARTING_TRAINER, _R.RUNNING, _R.STOPPING}),
    _R.STARTING_TRAINER: frozenset({_R.RUNNING, _R.STOPPING}),
    _R.RUNNING: frozenset({_R.STOPPING}),
    _R.STOPPING: frozenset(
        {_R.STARTING_RUNTIME, _R.STARTING_TRAINER, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}
    ),
    _R.SUCCEEDED: frozenset(),
    _R.FAILED: frozenset(),
    _R.CANCELLED: frozenset(),
}
RUN_FINAL = frozenset(state for state, leaves in RUN_ALLOWED.items() if not leaves)

JOB_ENDED = frozenset(
    {
        _J.SUCCEEDED,
        _J.FAILED,
        _J.OUT_OF_MEMORY,
        _J.TIMED_OUT,
        _J.CANCELLED,
        _J.PREEMPTED,
        _J.NODE_FAILED,
    }
)
_AFTER_ACCEPTED = JOB_ENDED | {_J.VANISHED}

JOB_ALLOWED: dict[JobState, frozenset[JobState]] = {
    _J.PLANNED: frozenset({_J.SUBMITTING, _J.NOT_SUBMITTED}),
    # Forward jumps are legal: a job may first be seen running or finished.
    _J.SUBMITTING: frozenset({_J.PLANNED, _J.HELD, _J.QUEUED, _J.RUNNING, _J.REJECTED})
    | {_J.NOT_SUBMITTED}
    | _AFTER_ACCEPTED,
    _J.HELD: frozenset({_J.QUEUED, _J.RUNNING}) | _AFTER_ACCEPTED,
    _J.QUEUED: frozenset({_J.RUNNING}) | _AFTER_ACCEPTED,
    _J.RUNNING: _AFTER_ACCEPTED,
    **{state: frozenset[JobState]() for state in _AFTER_ACCEPTED},
    _J.REJECTED: frozenset(),
    _J.NOT_SUBMITTED: frozenset(),
}
JOB_FINAL = frozenset(state for state, leaves in JOB_ALLOWED.items() if not leaves)

RUNTIME_ALLOWED: dict[RuntimeState, frozenset[RuntimeState]] = {
    RuntimeState.EXPECTED: frozenset({RuntimeState.ACTIVE, RuntimeState.CLOSED}),
    RuntimeState.ACTIVE: frozenset({RuntimeState.DRAINING, RuntimeState.CLOSED}),
    RuntimeState.DRAINING: frozenset({RuntimeState.CLOSED}),
    RuntimeState.CLOSED: frozenset(),
}

_SUCCESS = frozenset({Reason.TRAINER_COMPLETED, Reason.RUNTIME_COMPLETED})


def outcome(reason: Reason) -> RunState:
    """The final state of a run whose last attempt stopped for this reason."""
    if reason in _SUCCESS:
        return RunState.SUCCEEDED
    if reason is Reason.CANCELLED_BY_USER:
        return RunState.CANCELLED
    return RunState.FAILED

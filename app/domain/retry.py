"""Another attempt or the end. Pure."""

from datetime import datetime, timedelta

from app.domain.model import NextAttempt, RunView
from app.domain.states import Reason, RunState, outcome

ALWAYS = frozenset(
    {
        Reason.PREEMPTED,
        Reason.NODE_FAILED,
        Reason.PREFLIGHT_FAILED,
        Reason.TIME_LIMIT,
        Reason.START_TIMEOUT,
        Reason.RUNTIME_FAILED,
        Reason.RUNTIME_LOST,
        Reason.JOB_VANISHED,
    }
)
"""Failures of the infrastructure: the same spec may well succeed."""
IF_IT_GOT_FURTHER = frozenset(
    {Reason.TRAINER_FAILED, Reason.EXIT_RECORD_MISSING, Reason.INTERNAL_ERROR}
)
"""Retried only if the policy allows and the attempt saved a newer checkpoint."""


def next_attempt(run: RunView, now: datetime) -> NextAttempt | RunState:
    """What follows the attempt that has just been stopped: the next one, or the final state.

    A user's cancel takes away the next attempt. The run is then CANCELLED if it would have been
    retried; otherwise it is what its reason says.
    """
    assert run.reason is not None
    without = 0 if _saved(run) else run.attempts_without_checkpoint + 1
    if not _may_follow(run, run.reason, without):
        return outcome(run.reason)
    if run.cancelled:
        return RunState.CANCELLED
    delay = timedelta(seconds=run.spec.policy.retry_delay_s)
    return NextAttempt(not_before=now + delay, attempts_without_checkpoint=without)


def _may_follow(run: RunView, reason: Reason, without_checkpoint: int) -> bool:
    policy = run.spec.policy
    if run.attempt_number >= policy.max_attempts:
        return False
    if without_checkpoint >= policy.max_attempts_without_checkpoint:
        return False
    if reason in ALWAYS:
        return True
    return reason in IF_IT_GOT_FURTHER and policy.retry_trainer_failed and _saved(run)


def _saved(run: RunView) -> bool:
    return run.attempt is not None and run.attempt.saved_checkpoint

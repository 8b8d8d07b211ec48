"""What a decision writes before anything is performed: transition, plans, intents. Pure.

Whatever is performed later has its intent in the result, so that a crash between the two is
repaired by looking again.
"""

from dataclasses import replace
from datetime import datetime

from app.domain.model import (
    Abandon,
    AttemptView,
    Cancel,
    Close,
    Decision,
    JobView,
    NextAttempt,
    Replace,
    RuntimeView,
    RunView,
    Submit,
)
from app.domain.naming import JobKey, job_name
from app.domain.states import RUN_FINAL, JobState, Role, RunState, RuntimeState
from workers.contract.spec import RunKind


def intend(run: RunView, decision: Decision, now: datetime) -> RunView:
    """The run as it is to be stored before the decision's effects are performed."""
    for effect in decision.effects:
        match effect:
            case Submit(name):
                run = run.with_job(_submitting(run.job(name), now))
            case Cancel(name):
                run = run.with_job(replace(run.job(name), cancel_requested_at=now))
            case Abandon(name):
                job = run.job(name).to(JobState.NOT_SUBMITTED, now)
                run = run.with_job(replace(job, ended_at=now))
            case Close():
                run = _close(run, effect, now)
            case Replace(index):
                run = _replace(run, index, now)
            case _:
                continue
    return run if decision.to is None else _move(run, decision, decision.to, now)


def _submitting(job: JobView, now: datetime) -> JobView:
    # A repeated submission starts a settle window of its own.
    job = job.to(JobState.SUBMITTING, now)
    return replace(job, submit_started_at=now, absent_since=None, detail="")


def _close(run: RunView, close: Close, now: datetime) -> RunView:
    def closed(runtime: RuntimeView) -> RuntimeView:
        if (runtime.index, runtime.generation) != (close.index, close.generation):
            return runtime
        return replace(runtime, state=RuntimeState.CLOSED, close_reason=close.reason, closed_at=now)

    return replace(run, runtimes=tuple(closed(runtime) for runtime in run.runtimes))


def _replace(run: RunView, index: int, now: datetime) -> RunView:
    newest = max(r.generation for r in run.runtimes if r.index == index)
    return _plan(run, Role.RUNTIME, index, newest + 1, now, None)


def _move(run: RunView, decision: Decision, to: RunState, now: datetime) -> RunView:
    first = run.state is RunState.PENDING and to is not RunState.STOPPING
    if to is RunState.STOPPING:
        run = _give_reason(run, decision)
    elif decision.next_attempt is not None:
        run = _begin_next(run, decision.next_attempt, now)
    elif first:
        run = replace(run, started_at=now, attempt=AttemptView(run.attempt_number, now))
    if to in RUN_FINAL:
        run = replace(_end_attempt(run, now), ended_at=now)
    not_before = decision.next_attempt.not_before if decision.next_attempt else None
    return _plan_jobs(replace(run, state=to, state_since=now), to, now, not_before)


def _give_reason(run: RunView, decision: Decision) -> RunView:
    """Fixed here, once: final state or next attempt follow from it."""
    why = {"reason": decision.reason, "reason_detail": decision.detail}
    attempt = None if run.attempt is None else replace(run.attempt, **why)
    return replace(run, attempt=attempt, **why)


def _end_attempt(run: RunView, now: datetime) -> RunView:
    return run if run.attempt is None else replace(run, attempt=replace(run.attempt, ended_at=now))


def _begin_next(run: RunView, next_attempt: NextAttempt, now: datetime) -> RunView:
    number = run.attempt_number + 1
    return replace(
        run,
        attempt_number=number,
        attempts_without_checkpoint=next_attempt.attempts_without_checkpoint,
        attempt=AttemptView(number, now),
        reason=None,
        reason_detail="",
        jobs=(),
        runtimes=(),
    )


def _plan_jobs(run: RunView, to: RunState, now: datetime, not_before: datetime | None) -> RunView:
    if to is RunState.STARTING_RUNTIME:
        for index in range(run.spec.runtime.count):
            run = _plan(run, Role.RUNTIME, index, 1, now, not_before)
    elif to is RunState.STARTING_TRAINER and run.kind is not RunKind.RUNTIME_ONLY:
        run = _plan(run, Role.TRAINER, 0, 1, now, not_before)
    return run


def _plan(
    run: RunView,
    role: Role,
    index: int,
    generation: int,
    now: datetime,
    not_before: datetime | None,
) -> RunView:
    key = JobKey(run.id, run.attempt_number, role, index, generation)
    job = JobView(
        name=job_name(run.installation, key),
        attempt=run.attempt_number,
        role=role,
        index=index,
        generation=generation,
        state=JobState.PLANNED,
        state_since=now,
        not_before=not_before,
    )
    run = replace(run, jobs=(*run.jobs, job))
    if role is Role.TRAINER:
        return run
    expected = RuntimeView(index, generation, job.name, RuntimeState.EXPECTED)
    return replace(run, runtimes=(*run.runtimes, expected))

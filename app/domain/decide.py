"""All policy of a running attempt: what to do about a run now. Pure."""

from datetime import datetime, timedelta

from app.domain.ends import End, end_of
from app.domain.model import (
    Abandon,
    Cancel,
    CancelCopies,
    Close,
    Decision,
    Effect,
    JobView,
    NextAttempt,
    Policy,
    PrepareAttempt,
    Release,
    Replace,
    RuntimeView,
    RunView,
    Submit,
)
from app.domain.project import settled
from app.domain.retry import next_attempt
from app.domain.states import (
    RUN_FINAL,
    CloseReason,
    JobState,
    Reason,
    Role,
    RunState,
    RuntimeState,
)
from workers.contract.spec import RunKind

_OPEN = frozenset({RuntimeState.ACTIVE, RuntimeState.DRAINING})


def decide(run: RunView, now: datetime, policy: Policy) -> Decision:
    """The next step of a run, given what is known of its jobs.

    While the scheduler does not answer, nothing but a user's cancel changes a state.
    """
    if run.state in RUN_FINAL:
        return Decision()
    if not run.reachable:
        return _heed_cancel(run) or Decision()
    match run.state:
        case RunState.PENDING:
            return _pending(run)
        case RunState.STARTING_RUNTIME:
            return _starting_runtime(run, now, policy)
        case RunState.STARTING_TRAINER:
            return _starting_trainer(run, now, policy)
        case RunState.RUNNING:
            return _running(run, now, policy)
        case _:
            return _stopping(run, now, policy)


def _pending(run: RunView) -> Decision:
    if cancel := _heed_cancel(run):
        return cancel
    if not run.admitted or run.probe_error:
        return Decision()
    return Decision(to=first_state(run.kind))


def _starting_runtime(run: RunView, now: datetime, policy: Policy) -> Decision:
    if end := _first_end(run.runtime_jobs, now, policy):
        return _stop(run, end)
    if end := _start_overdue(run, now):
        return _stop(run, end)
    if end := _all_lost(run, now, policy):
        return _stop(run, end)
    if cancel := _heed_cancel(run):
        return cancel
    if not run.prepared:
        return Decision(effects=(PrepareAttempt(),))
    if _ready_count(run, now, policy) >= run.spec.runtime.count:
        alone = run.kind is RunKind.RUNTIME_ONLY
        return Decision(to=RunState.RUNNING if alone else RunState.STARTING_TRAINER)
    return Decision(effects=_drive(run, now, policy))


def _starting_trainer(run: RunView, now: datetime, policy: Policy) -> Decision:
    trainer = run.trainer
    if trainer is not None and trainer.final:
        return _trainer_ended(run, trainer, now, policy)
    if end := _runtime_shortage(run, now, policy):
        return _stop(run, end)
    if end := _start_overdue(run, now):
        return _stop(run, end)
    if cancel := _heed_cancel(run):
        return cancel
    if not run.prepared:
        return Decision(effects=(PrepareAttempt(),))
    if trainer is not None and trainer.state is JobState.RUNNING and _registered(run):
        return Decision(to=RunState.RUNNING)
    return Decision(effects=_tend(run, now, policy) + _drive(run, now, policy))


def _running(run: RunView, now: datetime, policy: Policy) -> Decision:
    trainer = run.trainer
    # The trainer first: runtimes that leave after it has completed are no loss.
    if trainer is not None and trainer.final:
        return _trainer_ended(run, trainer, now, policy)
    if end := _runtime_shortage(run, now, policy):
        return _stop(run, end)
    if cancel := _heed_cancel(run):
        return cancel
    return Decision(effects=_tend(run, now, policy) + _drive(run, now, policy))


def _trainer_ended(run: RunView, trainer: JobView, now: datetime, policy: Policy) -> Decision:
    end = end_of(trainer, now, policy)
    return _stop(run, end) if end else Decision()  # its exit record may still show up


def _stopping(run: RunView, now: datetime, policy: Policy) -> Decision:
    live = [job for job in run.jobs if not job.final]
    if live:
        return Decision(effects=tuple(e for job in live for e in _end_job(job, now, policy)))
    copies = _cancel_copies(run)
    if copies:
        return Decision(effects=copies)
    after = next_attempt(run, now)
    if isinstance(after, NextAttempt):
        return Decision(to=first_state(run.kind), next_attempt=after)
    return Decision(to=after)


def first_state(kind: RunKind) -> RunState:
    """Where an attempt begins."""
    if kind is RunKind.ATTACHED:
        return RunState.STARTING_TRAINER
    return RunState.STARTING_RUNTIME


def _heed_cancel(run: RunView) -> Decision | None:
    if not run.cancelled or run.state is RunState.STOPPING:
        return None
    return _stop(run, End(Reason.CANCELLED_BY_USER, "cancelled by a user"))


def _stop(run: RunView, end: End) -> Decision:
    return Decision(
        to=RunState.STOPPING,
        reason=end.reason,
        detail=end.detail,
        effects=tuple(
            _close(run, runtime, CloseReason.ATTEMPT_OVER)
            for runtime in run.runtimes
            if _is_open(runtime)
        ),
    )


def abandon(run: RunView, why: str) -> Decision:
    """Stop a run that we cannot step: its jobs are then ended as after any other reason."""
    if run.state in RUN_FINAL or run.state is RunState.STOPPING:
        return Decision()
    return _stop(run, End(Reason.INTERNAL_ERROR, why))


def _end_job(job: JobView, now: datetime, policy: Policy) -> tuple[Effect, ...]:
    if job.state is JobState.PLANNED or settled(job, now, policy):
        return (Abandon(job.name),)
    asked = job.cancel_requested_at
    if asked is not None and now - asked < policy.cancel_again:
        return ()
    return (Cancel(job.name),)


def _drive(run: RunView, now: datetime, policy: Policy) -> tuple[Effect, ...]:
    """Bring the jobs of the attempt into the queue, each exactly once."""
    effects: list[Effect] = list(_cancel_copies(run))
    for job in run.jobs:
        due = job.not_before is None or job.not_before <= now
        if job.state is JobState.HELD and not _closed(run, job):
            effects.append(Release(job.name))
        elif (job.state is JobState.PLANNED and due) or settled(job, now, policy):
            effects.append(Submit(job.name))
    return tuple(effects)


def _tend(run: RunView, now: datetime, policy: Policy) -> tuple[Effect, ...]:
    """Close generations that ended or fell silent, end their jobs, plan their successors."""
    dead = [r for r in run.runtimes if _is_open(r) and _dead(run, r, now, policy)]
    closes = [_close(run, r, CloseReason.HEARTBEAT_LOST) for r in dead]
    ends = [
        effect
        for job in run.runtime_jobs
        if not job.final and _closed(run, job)
        for effect in _end_job(job, now, policy)
    ]
    leaving = [
        r
        for r in run.newest_runtimes()
        if r in dead or not _is_open(r) or r.state is RuntimeState.DRAINING
    ]
    return (*closes, *ends, *_replacements(run, leaving, now, policy))


def _replacements(
    run: RunView, leaving: list[RuntimeView], now: datetime, policy: Policy
) -> tuple[Effect, ...]:
    used = sum(runtime.generation - 1 for runtime in run.newest_runtimes())
    left = max(0, run.spec.runtime.max_replacements - used)
    wanted = [r.index for r in leaving if _replaceable(run, r, now, policy)]
    return tuple(Replace(index) for index in sorted(wanted)[:left])


def _replaceable(run: RunView, runtime: RuntimeView, now: datetime, policy: Policy) -> bool:
    """The same job again may work. A refused one, or one out of memory, would fail again.

    A runtime that leaves in order is replaced while a trainer needs it; without one, it is done.
    """
    alone = run.kind is RunKind.RUNTIME_ONLY
    job = run.job(runtime.job_name)
    if not job.final:
        return not (alone and runtime.state is RuntimeState.DRAINING)
    end = end_of(job, now, policy)
    if end is None:
        return False
    if end.reason is Reason.RUNTIME_COMPLETED:
        return not alone
    return end.reason not in (Reason.SUBMIT_REJECTED, Reason.OUT_OF_MEMORY)


def _first_end(jobs: tuple[JobView, ...], now: datetime, policy: Policy) -> End | None:
    return next((end for job in jobs if (end := end_of(job, now, policy))), None)


def _runtime_shortage(run: RunView, now: datetime, policy: Policy) -> End | None:
    """Fewer live runtimes than the trainer needs. A runtime that ended is no longer live at once;
    a silent one only after `lost_after`."""
    if run.kind is RunKind.ATTACHED:
        return None
    indexes = {r.index for r in run.runtimes if _live(run, r, now, policy)}
    if len(indexes) >= run.spec.runtime.min_count:
        return None
    ended = [job for job in run.runtime_jobs if job.final]
    if not ended:
        return _lost(run)
    last = max(ended, key=lambda job: job.state_since)
    end = end_of(last, now, policy)
    if end is not None and end.reason is Reason.RUNTIME_COMPLETED and run.trainer is not None:
        return End(Reason.RUNTIME_FAILED, f"{end.detail} before the trainer did")
    return end


def _all_lost(run: RunView, now: datetime, policy: Policy) -> End | None:
    silent = any(r.state in _OPEN and _silent(r, now, policy) for r in run.runtimes)
    return _lost(run) if silent else None


def _lost(run: RunView) -> End:
    silent = ", ".join(r.job_name for r in run.newest_runtimes())
    return End(Reason.RUNTIME_LOST, f"no heartbeat from runtime {silent}")


def _live(run: RunView, runtime: RuntimeView, now: datetime, policy: Policy) -> bool:
    return runtime.state in _OPEN and not _dead(run, runtime, now, policy)


def _dead(run: RunView, runtime: RuntimeView, now: datetime, policy: Policy) -> bool:
    job = run.job(runtime.job_name)
    if job.final:
        return True
    if runtime.state is RuntimeState.EXPECTED:
        return _overdue(run, job, now)
    return _silent(runtime, now, policy)


def _silent(runtime: RuntimeView, now: datetime, policy: Policy) -> bool:
    if policy.listening_since is None or runtime.heartbeat_at is None:
        return False
    return now - max(runtime.heartbeat_at, policy.listening_since) > policy.lost_after


def _ready_count(run: RunView, now: datetime, policy: Policy) -> int:
    return sum(
        run.job(r.job_name).state is JobState.RUNNING
        and r.state is RuntimeState.ACTIVE
        and r.heartbeat_at is not None
        and now - r.heartbeat_at <= policy.stale_after
        for r in run.runtimes
    )


def _registered(run: RunView) -> bool:
    return run.attempt is not None and run.attempt.trainer_registered


def _start_overdue(run: RunView, now: datetime) -> End | None:
    """Waiting in the queue is not starting: two separate limits."""
    limit = run.spec.policy.max_queue_wait_s
    for job in run.jobs:
        if limit is not None and _queued_for(job, now) > timedelta(seconds=limit):
            return End(Reason.QUEUE_TIMEOUT, f"{job.name} waited longer than {limit:g} s")
    late = [job for job in run.jobs if not _has_started(run, job) and _overdue(run, job, now)]
    if not late:
        return None
    seconds = run.spec.policy.start_timeout_s
    return End(Reason.START_TIMEOUT, f"{late[0].name} runs, but was not ready in {seconds:g} s")


def _queued_for(job: JobView, now: datetime) -> timedelta:
    queued = job.state is JobState.QUEUED and job.submitted_at is not None
    return now - job.submitted_at if queued and job.submitted_at else timedelta(0)


def _has_started(run: RunView, job: JobView) -> bool:
    if job.role is Role.TRAINER:
        return _registered(run)
    # Later on, a successor that does not register is closed and replaced (see _dead).
    return run.state is not RunState.STARTING_RUNTIME


def _overdue(run: RunView, job: JobView, now: datetime) -> bool:
    """It runs, and has not been heard of for longer than a start may take."""
    if job.state is not JobState.RUNNING or job.started_at is None:
        return False
    beats = [r.heartbeat_at for r in run.runtimes if r.job_name == job.name and r.heartbeat_at]
    since = max([job.started_at, *beats])
    return now - since > timedelta(seconds=run.spec.policy.start_timeout_s)


def _is_open(runtime: RuntimeView) -> bool:
    return runtime.state is not RuntimeState.CLOSED


def _closed(run: RunView, job: JobView) -> bool:
    return any(r.job_name == job.name and not _is_open(r) for r in run.runtimes)


def _close(run: RunView, runtime: RuntimeView, otherwise: CloseReason) -> Close:
    """Close a generation: because its job ended, or `otherwise` if the job is still there."""
    reason = otherwise
    if run.job(runtime.job_name).final:
        drained = runtime.state is RuntimeState.DRAINING
        reason = CloseReason.DRAINED if drained else CloseReason.JOB_ENDED
    return Close(runtime.index, runtime.generation, reason)


def _cancel_copies(run: RunView) -> tuple[Effect, ...]:
    return tuple(CancelCopies(job.name, job.duplicates) for job in run.jobs if job.duplicates)

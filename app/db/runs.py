"""The queries of the reconciler, and the only writer of run, attempt and job state.

A change is described by two views, before and after. It is written as one compare-and-set on the
run's version with the events of every transition in the same transaction. A job has no version of
its own: its run's version guards it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from app.db import events, facts, run_events
from app.db import runtimes as runtime_rows
from app.db.run_views import ATTEMPT_COLUMNS, JOB_COLUMNS, installation_id, load
from app.db.tables import Attempt, Finding, Job, Run, Runtime, Sweep
from app.domain.findings import Finding as Symptom
from app.domain.findings import explain
from app.domain.model import JobView, RuntimeView, RunView
from app.domain.states import (
    JOB_ALLOWED,
    JOB_FINAL,
    RUN_ALLOWED,
    RUN_FINAL,
    RUNTIME_ALLOWED,
    Desired,
    JobState,
    Role,
    RunState,
    RuntimeState,
)

__all__ = [
    "IllegalTransition",
    "check",
    "claim_due",
    "defer",
    "forget_absences",
    "installation_id",
    "last_heard",
    "leftovers",
    "live_jobs",
    "load",
    "store",
    "tell",
]

S = TypeVar("S", RunState, JobState, RuntimeState)


class IllegalTransition(Exception):
    """A state change that the tables of ``app.domain.states`` do not allow: a bug of ours."""


def claim_due(session: Session, now: datetime, limit: int = 1000) -> list[str]:
    """Unfinished runs whose next look is due, in the order in which they were asked for.

    Of a sweep's waiting runs only as many as may ever start at once: a large sweep must not keep
    the runs that are under way from being looked at.
    """
    query = (
        select(Run.id)
        .where(
            Run.state.not_in(RUN_FINAL),
            Run.next_check_at <= now,
            Run.id.not_in(_far_behind()),
        )
        .order_by(Run.created_at, Run.sweep_index, Run.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def _far_behind() -> Select[str]:
    """Waiting runs of sweeps that are not among the next `parallel`; cancelled ones never are."""
    place = func.row_number().over(partition_by=Run.sweep_id, order_by=(Run.sweep_index, Run.id))
    queue = (
        select(Run.id, Sweep.parallel, place.label("place"))
        .join(Sweep, Sweep.id == Run.sweep_id)
        .where(Run.state == RunState.PENDING, Run.desired == Desired.RUNNING)
        .subquery()
    )
    return select(queue.c.id).where(queue.c.place > queue.c.parallel)


def defer(session: Session, run_id: str, until: datetime) -> None:
    """Look at this run no earlier. Only for runs that cannot be stepped: it has no guard."""
    session.execute(update(Run).where(Run.id == run_id).values(next_check_at=until))


def tell(session: Session, run_id: str, found: Symptom, now: datetime) -> None:
    """Show a symptom with the run, once for its current attempt."""
    attempt = session.scalar(select(Run.attempt).where(Run.id == run_id))
    if attempt is None:
        return
    about = {"run_id": run_id, "attempt": attempt, "step": None, "at": now}
    row = Finding(code=found.code, severity=found.severity, text=found.text, **about)
    if facts.add_finding(session, row):
        data = {"code": found.code, "severity": found.severity, "step": None}
        events.append(
            session, kind="finding.reported", text=found.text, at=now, run_id=run_id, data=data
        )


def live_jobs(session: Session) -> list[Job]:
    """Jobs that the scheduler has accepted and whose end is not known."""
    unknown = JOB_FINAL | {JobState.PLANNED, JobState.SUBMITTING}
    return list(session.scalars(select(Job).where(Job.state.not_in(unknown))))


def leftovers(session: Session, names: Sequence[str]) -> list[str]:
    """Of these names, those under which no job may live any more: the job or the attempt is
    over, or the generation is closed. A name that we do not know is left alone."""
    over = or_(
        Job.state.in_(JOB_FINAL),
        Job.attempt < Run.attempt,
        Run.state.in_(RUN_FINAL),
        Runtime.state == RuntimeState.CLOSED,
    )
    query = (
        select(Job.name)
        .join(Run, Run.id == Job.run_id)
        .outerjoin(Runtime, Runtime.job_name == Job.name)
        .where(Job.name.in_(names), over)
    )
    return list(session.scalars(query))


def last_heard(session: Session) -> datetime | None:
    """The last sign of life of any worker of this installation."""
    beats = (
        session.scalar(select(func.max(Runtime.heartbeat_at))),
        session.scalar(select(func.max(Attempt.trainer_heartbeat_at))),
    )
    return max((beat for beat in beats if beat is not None), default=None)


def forget_absences(session: Session) -> None:
    """Start every settle window and grace anew: nobody looked while nobody reconciled."""
    session.execute(update(Job).where(Job.absent_since.is_not(None)).values(absent_since=None))


def store(session: Session, before: RunView, after: RunView, now: datetime) -> bool:
    """Write what differs. False if somebody else was faster: nothing was written then, and the
    next look starts from what is.

    Raises IllegalTransition.
    """
    if before.stored() == after.stored():
        return True
    if not _swap(session, before, after):
        return False
    _store_attempt(session, before, after, now)
    jobs = {job.name: job for job in before.jobs}
    for job in after.jobs:
        _store_job(session, after, jobs.get(job.name), job, now)
    runtimes = {runtime.job_name: runtime for runtime in before.runtimes}
    for runtime in after.runtimes:
        _store_runtime(session, after, runtimes.get(runtime.job_name), runtime, now)
    run_events.report_run(session, before, after, now)
    if after.state is RunState.STOPPING and before.state is not RunState.STOPPING:
        _explain(session, after, now)
    return True


def _explain(session: Session, run: RunView, now: datetime) -> None:
    assert run.reason is not None
    found = explain(run.reason, run.reason_detail)
    if found is not None:
        about = {"run_id": run.id, "attempt": run.attempt_number, "at": now}
        session.add(
            Finding(code=found.code, severity=found.severity, text=found.text, step=None, **about)
        )


def _swap(session: Session, before: RunView, after: RunView) -> bool:
    if before.state is not after.state:
        check(RUN_ALLOWED, before.state, after.state, f"run {before.id}")
    swapped = session.execute(
        update(Run)
        .where(Run.id == before.id, Run.version == before.version)
        .values(
            version=before.version + 1,
            state=after.state,
            state_since=after.state_since,
            reason=after.reason,
            reason_detail=after.reason_detail,
            attempt=after.attempt_number,
            attempts_without_checkpoint=after.attempts_without_checkpoint,
            started_at=after.started_at,
            ended_at=after.ended_at,
        )
        .returning(Run.id)
    )
    return swapped.first() is not None


def check(allowed: dict[S, frozenset[S]], old: S, new: S, what: str) -> None:
    if new not in allowed[old]:
        raise IllegalTransition(f"{what}: {old} -> {new}")


def _store_attempt(session: Session, before: RunView, after: RunView, now: datetime) -> None:
    old, new = before.attempt, after.attempt
    if old is not None and (new is None or new.number != old.number):
        over = _attempt_row(session, before.id, old.number)
        over.ended_at = now
    if new is None or new == old:
        return
    row = _attempt_row(session, after.id, new.number, started_at=new.started_at)
    for column in ATTEMPT_COLUMNS:
        setattr(row, column, getattr(new, column))


def _attempt_row(
    session: Session, run_id: str, number: int, started_at: datetime | None = None
) -> Attempt:
    row = session.get(Attempt, (run_id, number))
    if row is None:
        assert started_at is not None
        row = Attempt(run_id=run_id, number=number, started_at=started_at)
        session.add(row)
    return row


def _store_job(
    session: Session, run: RunView, old: JobView | None, new: JobView, now: datetime
) -> None:
    if old == new:
        return
    values = {column: getattr(new, column) for column in JOB_COLUMNS}
    record = new.exit_record
    values["exit_record"] = record.model_dump(mode="json") if record else None
    if old is None:
        key = {"role": new.role, "index": new.index, "generation": new.generation}
        session.add(Job(run_id=run.id, attempt=new.attempt, name=new.name, **key, **values))
    else:
        if old.state is not new.state:
            check(JOB_ALLOWED, old.state, new.state, f"job {new.name}")
        session.execute(update(Job).where(Job.name == old.name).values(values))
    if old is None or old.state is not new.state:
        run_events.report_job(session, run, old, new, now)
        if new.final and new.role is Role.RUNTIME:
            # Its server can no longer say so: containers end with their job.
            runtime_rows.end_sandboxes(session, run.id, new, new.ended_at or now)


def _store_runtime(
    session: Session, run: RunView, old: RuntimeView | None, runtime: RuntimeView, now: datetime
) -> None:
    if old == runtime:
        return
    if old is None:
        _insert_runtime(session, run, runtime)
        run_events.report_runtime(session, run, None, runtime, now)
        return
    check(RUNTIME_ALLOWED, old.state, runtime.state, f"runtime of {runtime.job_name}")
    # The broker may have moved it meanwhile; from any open state it may be closed.
    closed = session.execute(
        update(Runtime)
        .where(Runtime.job_name == old.job_name, Runtime.state != RuntimeState.CLOSED)
        .values(state=runtime.state, close_reason=runtime.close_reason, closed_at=runtime.closed_at)
        .returning(Runtime.id)
    )
    if closed.first() is not None:
        run_events.report_runtime(session, run, old, runtime, now)


def _insert_runtime(session: Session, run: RunView, runtime: RuntimeView) -> None:
    session.add(
        Runtime(
            run_id=run.id,
            attempt=run.attempt_number,
            index=runtime.index,
            generation=runtime.generation,
            job_name=runtime.job_name,
            state=runtime.state,
            limits=[],
        )
    )

"""Runs, attempts and jobs: the queries of the reconciler, and the only writer of their state.

A change is described by two views, before and after. It is written as one compare-and-set on the
run's version with the events of every transition in the same transaction. A job has no version of
its own: its run's version guards it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from app.db import events
from app.db.tables import Attempt, Checkpoint, Installation, Job, Run, Runtime
from app.db.tables import Sweep as SweepRow
from app.domain.admit import Waiting, admitted
from app.domain.model import AttemptView, JobView, RuntimeView, RunView
from app.domain.states import (
    JOB_ALLOWED,
    JOB_FINAL,
    RUN_ALLOWED,
    RUN_FINAL,
    RUNTIME_ALLOWED,
    Desired,
    JobState,
    RunState,
    RuntimeState,
)
from workers.contract.exit_record import ExitRecord, ExitResult
from workers.contract.spec import RunSpec

S = TypeVar("S", RunState, JobState, RuntimeState)


class IllegalTransition(Exception):
    """A state change that the tables of ``app.domain.states`` do not allow: a bug of ours."""


def installation_id(session: Session) -> str:
    return session.scalars(select(Installation.id)).one()


def claim_due(session: Session, now: datetime, limit: int = 1000) -> list[str]:
    """Unfinished runs whose next look is due, in the order in which they were asked for."""
    query = (
        select(Run.id)
        .where(Run.state.not_in(RUN_FINAL), Run.next_check_at <= now)
        .order_by(Run.created_at, Run.sweep_index, Run.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def next_due(session: Session) -> datetime | None:
    """When the earliest unfinished run wants to be looked at."""
    return session.scalar(select(func.min(Run.next_check_at)).where(Run.state.not_in(RUN_FINAL)))


def defer(session: Session, run_id: str, until: datetime) -> None:
    """Look at this run no earlier. Only for runs that cannot be stepped: it has no guard."""
    session.execute(update(Run).where(Run.id == run_id).values(next_check_at=until))


def load(session: Session, run_id: str) -> RunView | None:
    """The run with its current attempt, or None if there is no such run."""
    run = session.get(Run, run_id, populate_existing=True)
    if run is None:
        return None
    of_attempt = (run_id, run.attempt)
    jobs = session.scalars(_of(Job, *of_attempt).order_by(Job.id))
    runtimes = session.scalars(_of(Runtime, *of_attempt).order_by(Runtime.id))
    return RunView(
        id=run.id,
        installation=installation_id(session),
        kind=run.kind,
        spec=RunSpec.model_validate(run.spec),
        desired=Desired(run.desired),
        state=run.state,
        state_since=run.state_since,
        version=run.version,
        attempt=_attempt_view(session, run),
        attempt_number=run.attempt,
        attempts_without_checkpoint=run.attempts_without_checkpoint,
        reason=run.reason,
        reason_detail=run.reason_detail,
        started_at=run.started_at,
        ended_at=run.ended_at,
        jobs=tuple(_job_view(job) for job in jobs),
        runtimes=tuple(_runtime_view(runtime) for runtime in runtimes),
        avoid_nodes=_avoid_nodes(session, run_id),
        admitted=_admitted(session, run),
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
    _report_run(session, before, after, now)
    return True


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


_ATTEMPT_COLUMNS = (
    "directory",
    "runtime_token_hash",
    "trainer_token_hash",
    "resume_checkpoint",
    "resume_step",
    "prepared_at",
    "reason",
    "reason_detail",
    "ended_at",
)


def _store_attempt(session: Session, before: RunView, after: RunView, now: datetime) -> None:
    old, new = before.attempt, after.attempt
    if old is not None and (new is None or new.number != old.number):
        over = _attempt_row(session, before.id, old.number)
        over.ended_at = now
    if new is None or new == old:
        return
    row = _attempt_row(session, after.id, new.number, started_at=new.started_at)
    fresh = old is None or old.number != new.number
    for column in _ATTEMPT_COLUMNS:
        setattr(row, column, getattr(new, column))
    if fresh:
        _resume_from(session, row)


def _attempt_row(
    session: Session, run_id: str, number: int, started_at: datetime | None = None
) -> Attempt:
    row = session.get(Attempt, (run_id, number))
    if row is None:
        assert started_at is not None
        row = Attempt(run_id=run_id, number=number, started_at=started_at)
        session.add(row)
    return row


def _resume_from(session: Session, row: Attempt) -> None:
    """The newest complete checkpoint of any earlier attempt; fixed when the attempt begins."""
    newest = session.scalar(
        select(Checkpoint)
        .where(
            Checkpoint.run_id == row.run_id,
            Checkpoint.attempt < row.number,
            Checkpoint.complete.is_(True),
        )
        .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        .limit(1)
    )
    if newest is not None:
        row.resume_checkpoint = newest.path
        row.resume_step = newest.step


_JOB_COLUMNS = (
    "state",
    "state_since",
    "scheduler_id",
    "raw_state",
    "pending_reason",
    "detail",
    "exit_code",
    "signal",
    "nodes",
    "not_before",
    "absent_since",
    "cancel_requested_at",
    "submit_started_at",
    "submitted_at",
    "started_at",
    "ended_at",
)


def _store_job(
    session: Session, run: RunView, old: JobView | None, new: JobView, now: datetime
) -> None:
    if old == new:
        return
    values = {column: getattr(new, column) for column in _JOB_COLUMNS}
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
        _report_job(session, run, old, new, now)


def _store_runtime(
    session: Session, run: RunView, old: RuntimeView | None, runtime: RuntimeView, now: datetime
) -> None:
    if old == runtime:
        return
    if old is None:
        _insert_runtime(session, run, runtime)
        _report_runtime(session, run, None, runtime, now)
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
        _report_runtime(session, run, old, runtime, now)


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


def _report_run(session: Session, before: RunView, after: RunView, now: datetime) -> None:
    if before.state is after.state:
        return
    stopping = after.state is RunState.STOPPING
    why = f": {after.reason_detail}" if after.reason_detail and stopping else ""
    if after.state in RUN_FINAL and after.reason is not None:
        why = f": {after.reason_detail or after.reason}"
    data = {
        "from": before.state,
        "to": after.state,
        "attempt": after.attempt_number,
        "reason": after.reason,
        "detail": after.reason_detail,
    }
    _append(session, after, "run.state", f"{before.state} -> {after.state}{why}", data, now)
    if before.attempt_number != after.attempt_number:
        text = f"attempt {after.attempt_number} follows: attempt {before.attempt_number} ended by "
        data = {"attempt": after.attempt_number, "reason": before.reason}
        _append(session, after, "run.attempt", f"{text}{before.reason}", data, now)


def _report_job(
    session: Session, run: RunView, old: JobView | None, new: JobView, now: datetime
) -> None:
    data = {
        "job": new.name,
        "role": new.role,
        "index": new.index,
        "attempt": new.attempt,
        "generation": new.generation,
        "scheduler_id": new.scheduler_id,
        "from": old.state if old else None,
        "to": new.state,
    }
    text = f"{new.role} job {new.index}: {f'{old.state} -> ' if old else ''}{new.state}"
    if new.state is JobState.REJECTED and new.detail:
        text = f"{text}: {new.detail}"
    _append(session, run, "job.state", text, data, now)


def _report_runtime(
    session: Session, run: RunView, old: RuntimeView | None, new: RuntimeView, now: datetime
) -> None:
    data = {
        "index": new.index,
        "generation": new.generation,
        "attempt": run.attempt_number,
        "from": old.state if old else None,
        "to": new.state,
        "close_reason": new.close_reason,
    }
    why = f" ({new.close_reason})" if new.close_reason else ""
    text = f"runtime {new.index} generation {new.generation}: {new.state}{why}"
    _append(session, run, "runtime.state", text, data, now)


def _append(
    session: Session, run: RunView, kind: str, text: str, data: dict[str, Any], now: datetime
) -> None:
    events.append(session, kind=kind, text=text, at=now, run_id=run.id, data=data)


T = TypeVar("T", Job, Runtime)


def _of(table: type[T], run_id: str, attempt: int) -> Select[T]:
    return (
        select(table)
        .where(table.run_id == run_id, table.attempt == attempt)
        .execution_options(populate_existing=True)
    )


def _attempt_view(session: Session, run: Run) -> AttemptView | None:
    row = session.get(Attempt, (run.id, run.attempt), populate_existing=True)
    if row is None:
        return None
    newer = select(Checkpoint.step).where(
        Checkpoint.run_id == run.id,
        Checkpoint.attempt == run.attempt,
        Checkpoint.complete.is_(True),
        Checkpoint.step > row.resume_step,
    )
    columns = {column: getattr(row, column) for column in _ATTEMPT_COLUMNS}
    return AttemptView(
        number=row.number,
        started_at=row.started_at,
        trainer_registered=row.trainer_registered_at is not None,
        saved_checkpoint=session.scalar(newer.limit(1)) is not None,
        **columns,
    )


def _job_view(row: Job) -> JobView:
    columns = {column: getattr(row, column) for column in _JOB_COLUMNS}
    record = ExitRecord.model_validate(row.exit_record) if row.exit_record else None
    return JobView(
        name=row.name,
        attempt=row.attempt,
        role=row.role,
        index=row.index,
        generation=row.generation,
        exit_record=record,
        **columns,
    )


def _runtime_view(row: Runtime) -> RuntimeView:
    return RuntimeView(
        index=row.index,
        generation=row.generation,
        job_name=row.job_name,
        state=row.state,
        close_reason=row.close_reason,
        heartbeat_at=row.heartbeat_at,
        closed_at=row.closed_at,
    )


def _avoid_nodes(session: Session, run_id: str) -> tuple[str, ...]:
    ended = session.scalars(
        select(Job).where(Job.run_id == run_id, Job.exit_record.is_not(None), Job.nodes != "")
    )
    unfit = {job.nodes for job in ended if _unfit(job.exit_record)}
    return tuple(sorted(unfit))


def _unfit(record: dict[str, Any] | None) -> bool:
    return record is not None and record.get("result") == ExitResult.PREFLIGHT_FAILED


def _admitted(session: Session, run: Run) -> bool:
    if run.state is not RunState.PENDING or run.sweep_id is None:
        return True
    sweep = session.get_one(SweepRow, run.sweep_id)
    mine = select(Run).where(Run.sweep_id == sweep.id, Run.state.not_in(RUN_FINAL))
    members = list(session.scalars(mine))
    return run.id in admitted(_waiting(members), _active(members), sweep.parallel)


def _waiting(members: Iterable[Run]) -> list[Waiting]:
    return [
        Waiting(run.id, run.sweep_index or 0) for run in members if run.state is RunState.PENDING
    ]


def _active(members: Iterable[Run]) -> int:
    return sum(run.state is not RunState.PENDING for run in members)

"""Rows of the database as the pure views that decisions are made of."""

from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.db.tables import Attempt, Checkpoint, Installation, Job, Run, Runtime, Sweep
from app.domain.admit import Waiting, admitted
from app.domain.model import AttemptView, JobView, RuntimeView, RunView, Saved
from app.domain.states import RUN_FINAL, Desired, RunState
from workers.contract.exit_record import ExitRecord, ExitResult
from workers.contract.spec import RunSpec

T = TypeVar("T", Job, Runtime)

ATTEMPT_COLUMNS = (
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


JOB_COLUMNS = (
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


def installation_id(session: Session) -> str:
    return session.scalars(select(Installation.id)).one()


def load(session: Session, run_id: str) -> RunView | None:
    """The run with its current attempt, or None if there is no such run."""
    run = session.get(Run, run_id, populate_existing=True)
    if run is None:
        return None
    of_attempt = (run_id, run.attempt)
    attempt = _attempt_view(session, run)
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
        attempt=attempt,
        attempt_number=run.attempt,
        attempts_without_checkpoint=run.attempts_without_checkpoint,
        reason=run.reason,
        reason_detail=run.reason_detail,
        started_at=run.started_at,
        ended_at=run.ended_at,
        jobs=tuple(_job_view(job) for job in jobs),
        runtimes=tuple(_runtime_view(runtime) for runtime in runtimes),
        avoid_nodes=_avoid_nodes(session, run_id),
        resumable=_resumable(session, run_id, attempt),
        admitted=_admitted(session, run),
    )


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
    columns = {column: getattr(row, column) for column in ATTEMPT_COLUMNS}
    return AttemptView(
        number=row.number,
        started_at=row.started_at,
        trainer_registered=row.trainer_registered_at is not None,
        saved_checkpoint=session.scalar(newer.limit(1)) is not None,
        **columns,
    )


def _resumable(session: Session, run_id: str, attempt: AttemptView | None) -> tuple[Saved, ...]:
    if attempt is None or attempt.prepared_at is not None:
        return ()
    complete = (
        select(Checkpoint.path, Checkpoint.step)
        .where(
            Checkpoint.run_id == run_id,
            Checkpoint.attempt < attempt.number,
            Checkpoint.complete.is_(True),
        )
        .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
    )
    return tuple(Saved(path, step) for path, step in session.execute(complete))


def _job_view(row: Job) -> JobView:
    columns = {column: getattr(row, column) for column in JOB_COLUMNS}
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
    sweep = session.get_one(Sweep, run.sweep_id)
    waiting = (
        select(Run.id, Run.sweep_index)
        .where(Run.sweep_id == sweep.id, Run.state == RunState.PENDING)
        .order_by(Run.sweep_index, Run.id)
        .limit(sweep.parallel)
    )
    under_way = Run.state.not_in(RUN_FINAL | {RunState.PENDING})
    active = select(func.count()).where(Run.sweep_id == sweep.id, under_way)
    first = [Waiting(run_id, index or 0) for run_id, index in session.execute(waiting)]
    return run.id in admitted(first, session.scalar(active) or 0, sweep.parallel)

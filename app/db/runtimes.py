"""Registrations, heartbeats, generations, leases, and the sandboxes that runtimes report."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.orm import Session

from app.db.engine import ReadSession
from app.db.tables import Attempt, Job, Lease, Runtime, Sandbox
from app.domain.model import JobView
from app.domain.states import Role, RuntimeState
from workers.contract.sandbox_api import SandboxState


def lock_job(
    session: Session, run_id: str, attempt: int, role: Role, index: int, generation: int
) -> Job | None:
    """The job row, locked: two registrations for one job take turns."""
    return session.scalar(
        select(Job)
        .where(
            Job.run_id == run_id,
            Job.attempt == attempt,
            Job.role == role,
            Job.index == index,
            Job.generation == generation,
        )
        .with_for_update()
    )


def lock_attempt(session: Session, run_id: str, number: int) -> Attempt | None:
    return session.scalar(
        select(Attempt).where(Attempt.run_id == run_id, Attempt.number == number).with_for_update()
    )


def newest_generation(session: ReadSession, run_id: str, attempt: int, index: int) -> int:
    """The highest generation that was planned for this index, 0 if none."""
    return (
        session.scalar(
            select(func.max(Job.generation)).where(
                Job.run_id == run_id,
                Job.attempt == attempt,
                Job.role == Role.RUNTIME,
                Job.index == index,
            )
        )
        or 0
    )


def find(
    session: Session, run_id: str, attempt: int, index: int, generation: int
) -> Runtime | None:
    """The generation's row, locked until the end of the transaction."""
    return session.scalar(
        select(Runtime)
        .where(
            Runtime.run_id == run_id,
            Runtime.attempt == attempt,
            Runtime.index == index,
            Runtime.generation == generation,
        )
        .with_for_update()
    )


def move(session: Session, runtime_id: int, old: RuntimeState, new: RuntimeState) -> bool:
    """Compare and set; False if somebody else moved it first."""
    result = session.execute(
        update(Runtime)
        .where(Runtime.id == runtime_id, Runtime.state == old)
        .values(state=new)
        .returning(Runtime.id)
    )
    return result.first() is not None


def leasable(
    session: ReadSession, run_id: str, attempt: int, fresh_since: datetime
) -> list[Runtime]:
    """The newest generation of each index, where it is ACTIVE and was heard of lately."""
    newest = (
        select(Job.index, func.max(Job.generation))
        .where(Job.run_id == run_id, Job.attempt == attempt, Job.role == Role.RUNTIME)
        .group_by(Job.index)
    )
    query = select(Runtime).where(
        Runtime.run_id == run_id,
        Runtime.attempt == attempt,
        Runtime.state == RuntimeState.ACTIVE,
        Runtime.heartbeat_at >= fresh_since,
        tuple_(Runtime.index, Runtime.generation).in_(newest),
    )
    return list(session.scalars(query.order_by(Runtime.index)))


def standing_leases(
    session: ReadSession, run_id: str, attempt: int, ids: Sequence[str], now: datetime
) -> dict[int, Lease]:
    """Of these leases, by runtime, those that have not run out."""
    query = select(Lease).where(
        Lease.run_id == run_id,
        Lease.attempt == attempt,
        Lease.id.in_(ids),
        Lease.expires_at > now,
    )
    return {lease.runtime_id: lease for lease in session.scalars(query)}


def add_lease(session: Session, lease: Lease) -> None:
    session.add(lease)


def forget_leases(session: Session, run_id: str, expired_before: datetime) -> None:
    session.execute(delete(Lease).where(Lease.run_id == run_id, Lease.expires_at < expired_before))


def end_sandboxes(session: Session, run_id: str, job: JobView, at: datetime) -> None:
    """Whatever this generation's sandboxes were last heard to do: they are gone."""
    session.execute(
        update(Sandbox)
        .where(
            Sandbox.run_id == run_id,
            Sandbox.attempt == job.attempt,
            Sandbox.runtime_index == job.index,
            Sandbox.generation == job.generation,
            Sandbox.state.not_in((SandboxState.GONE, SandboxState.FAILED)),
        )
        .values(state=SandboxState.GONE, ended_at=at)
    )


def known_sandboxes(session: ReadSession, ids: Sequence[str]) -> dict[str, Sandbox]:
    found = session.scalars(select(Sandbox).where(Sandbox.id.in_(ids)))
    return {sandbox.id: sandbox for sandbox in found}

"""What people want of runs: new ones, and their end. State belongs to ``app.db.runs``."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.engine import ReadSession
from app.db.tables import Run
from app.domain.states import RUN_FINAL, Desired


def insert_run(session: Session, run: Run) -> None:
    session.add(run)
    session.flush()


def run_by_key(session: ReadSession, key: str) -> Run | None:
    return session.scalar(select(Run).where(Run.idempotency_key == key))


def set_cancelled(session: Session, run_id: str, at: datetime) -> bool:
    """True if this call changed what is wanted; a final run and a repeat change nothing."""
    result = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.desired != Desired.CANCELLED, Run.state.not_in(RUN_FINAL))
        .values(desired=Desired.CANCELLED, next_check_at=at)
        .returning(Run.id)
    )
    return result.first() is not None


def wake(session: Session, run_id: str, at: datetime) -> None:
    """A hint to look at the run soon. Losing it costs one tick, so nothing guards it."""
    session.execute(
        update(Run).where(Run.id == run_id, Run.next_check_at > at).values(next_check_at=at)
    )

"""Who reconciles: one row, taken and renewed by compare-and-set."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import or_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.engine import ReadSession
from app.db.tables import ReconcilerLease

_ROW = 1


class Leadership(StrEnum):
    NONE = "none"
    """Somebody else reconciles."""
    TAKEN = "taken"
    """Ours since just now: nobody looked before."""
    KEPT = "kept"


def acquire(session: Session, owner: str, now: datetime, until: datetime) -> Leadership:
    """Become or stay the one who reconciles, until `until` at the most."""
    row = ReconcilerLease
    mine = row.owner == owner
    kept = update(row).where(row.id == _ROW, mine, row.expires_at > now)
    if session.execute(kept.values(expires_at=until).returning(row.id)).first():
        return Leadership.KEPT
    free = update(row).where(row.id == _ROW, or_(row.expires_at <= now, mine))
    taken = free.values(owner=owner, expires_at=until).returning(row.id)
    if session.execute(taken).first() or _insert(session, owner, until):
        return Leadership.TAKEN
    return Leadership.NONE


def release(session: Session, owner: str, now: datetime) -> None:
    """Let the next one begin at once."""
    row = ReconcilerLease
    session.execute(update(row).where(row.id == _ROW, row.owner == owner).values(expires_at=now))


def record_tick(session: Session, owner: str, now: datetime, scheduler_error: str) -> None:
    """What the health page shows."""
    values: dict[str, object] = {"last_tick_at": now, "scheduler_error": scheduler_error}
    if not scheduler_error:
        values["scheduler_ok_at"] = now
    row = ReconcilerLease
    session.execute(update(row).where(row.id == _ROW, row.owner == owner).values(values))


def current(session: ReadSession) -> ReconcilerLease | None:
    return session.get(ReconcilerLease, _ROW)


def _insert(session: Session, owner: str, until: datetime) -> bool:
    """The very first reconciler of this database makes the row."""
    if session.get(ReconcilerLease, _ROW) is not None:
        return False
    try:
        with session.begin_nested():
            session.add(ReconcilerLease(id=_ROW, owner=owner, expires_at=until))
    except IntegrityError:
        return False
    return True

"""The one row that tells installations apart; its id is part of every job name."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Installation
from app.ids import IdFactory


def ensure(session: Session, ids: IdFactory, at: datetime) -> str:
    """The installation's id, made on first use. Callers hold the data folder's lock."""
    known = session.scalar(select(Installation.id))
    if known is not None:
        return known
    row = Installation(id=ids(), created_at=at)
    session.add(row)
    session.flush()
    return row.id

"""People's tokens. Only hashes are kept."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.engine import ReadSession
from app.db.tables import ApiToken, Attempt


def add(session: Session, token: ApiToken) -> None:
    session.add(token)
    session.flush()


def by_hash(session: ReadSession, hashed: str) -> ApiToken | None:
    return session.scalar(select(ApiToken).where(ApiToken.hash == hashed))


def every(session: ReadSession) -> list[ApiToken]:
    return list(session.scalars(select(ApiToken).order_by(ApiToken.created_at, ApiToken.id)))


def revoke(session: Session, token_id: str, at: datetime) -> None:
    """Revoking twice keeps the first time."""
    session.execute(
        update(ApiToken)
        .where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=at)
    )


def touch(session: Session, token_id: str, at: datetime) -> None:
    session.execute(update(ApiToken).where(ApiToken.id == token_id).values(last_used_at=at))


def attempt_of_runtime(session: ReadSession, hashed: str) -> Attempt | None:
    return session.scalar(select(Attempt).where(Attempt.runtime_token_hash == hashed))


def attempt_of_trainer(session: ReadSession, hashed: str) -> Attempt | None:
    return session.scalar(select(Attempt).where(Attempt.trainer_token_hash == hashed))

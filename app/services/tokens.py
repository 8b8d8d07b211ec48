"""People's tokens: made, listed, revoked, checked."""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.db import tokens
from app.db.engine import ReadSession
from app.db.tables import ApiToken
from app.errors import NotFound, Unauthenticated
from app.ids import IdFactory, new_token, token_hash

TOUCH_EVERY = timedelta(minutes=10)


@dataclass(frozen=True)
class User:
    """Who sent a request: the name that a token was made for."""

    name: str
    token_id: str
    last_used_at: datetime | None = None


def create(
    session: Session,
    name: str,
    *,
    at: datetime,
    ids: IdFactory,
    expires_at: datetime | None = None,
    make: IdFactory = new_token,
) -> tuple[ApiToken, str]:
    """The row, and the token in clear: shown once, never stored."""
    clear = make()
    row = ApiToken(
        id=ids(), name=name, hash=token_hash(clear), created_at=at, expires_at=expires_at
    )
    tokens.add(session, row)
    return row, clear


def revoke(session: Session, token_id: str, *, at: datetime) -> None:
    if session.get(ApiToken, token_id) is None:
        raise NotFound(f"there is no token {token_id!r}")
    tokens.revoke(session, token_id, at)


def authenticate(session: ReadSession, clear: str, *, now: datetime) -> User:
    """Raises Unauthenticated for an unknown, expired or revoked token, never saying which."""
    hashed = token_hash(clear)
    row = tokens.by_hash(session, hashed)
    if row is None or not hmac.compare_digest(row.hash, hashed):
        raise Unauthenticated()
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise Unauthenticated()
    return User(row.name, row.id, row.last_used_at)


def needs_touch(user: User, now: datetime) -> bool:
    """Last use is kept to some minutes, so that reading costs no write."""
    return user.last_used_at is None or now - user.last_used_at > TOUCH_EVERY
